/* The Python module `_walker`: class Forest, opened from the bytes of a table. See _walker.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "forest.h"

/* Rows of up to so many features are read without asking for memory. */
#define FEW 256

struct object {
  PyObject_HEAD
  struct forest *forest;
  float *at; /* used under the interpreter's lock, by one row at a time */
};

static PyObject *RefusedError;

static PyObject *forest_open(PyTypeObject *type, PyObject *arguments, PyObject *names) {
  static char *accepted[] = {"table", NULL};
  Py_buffer file;
  if (!PyArg_ParseTupleAndKeywords(arguments, names, "y*:Forest", accepted, &file)) return NULL;
  struct table table;
  struct refusal refusal;
  struct forest *forest = NULL;
  const bool sound = table_read(file.buf, (size_t)file.len, &table, &refusal);
  if (sound) forest = forest_new(&table);
  PyBuffer_Release(&file);
  if (!sound) {
    PyObject *why = Py_BuildValue("(ss)", refusal.what, refusal.where);
    if (why) PyErr_SetObject(RefusedError, why);
    Py_XDECREF(why);
    return NULL;
  }
  if (!forest) return PyErr_NoMemory();

  struct object *self = (struct object *)type->tp_alloc(type, 0);
  if (self) self->at = PyMem_Calloc(forest->places, sizeof *self->at);
  if (!self || !self->at) {
    forest_free(forest);
    Py_XDECREF(self);
    return self ? PyErr_NoMemory() : NULL;
  }
  self->forest = forest;
  return (PyObject *)self;
}

static void forest_close(struct object *self) {
  forest_free(self->forest);
  PyMem_Free(self->at);
  Py_TYPE(self)->tp_free((PyObject *)self);
}

/* The numbers of a list or tuple. What is no float runs code of its own, which may change the list:
   its size is looked at again after that. */
static bool read_row(PyObject *list, Py_ssize_t width, float *row) {
  for (Py_ssize_t i = 0; i < width; i++) {
    if (PySequence_Fast_GET_SIZE(list) != width) {
      PyErr_SetString(PyExc_ValueError, "the row changed while it was read");
      return false;
    }
    PyObject *item = PySequence_Fast_GET_ITEM(list, i);
    if (PyFloat_CheckExact(item)) {
      row[i] = (float)PyFloat_AS_DOUBLE(item);
      continue;
    }
    Py_INCREF(item);
    const double value = PyFloat_AsDouble(item);
    Py_DECREF(item);
    if (value == -1 && PyErr_Occurred()) return false;
    row[i] = (float)value;
  }
  return true;
}

static PyObject *forest_margin(struct object *self, PyObject *sequence) {
  const Py_ssize_t width = self->forest->features;
  PyObject *list = PySequence_Fast(sequence, "a row is a list or tuple of numbers");
  if (!list) return NULL;
  if (PySequence_Fast_GET_SIZE(list) != width) {
    PyErr_Format(PyExc_ValueError, "the model takes rows of %zd features, not of %zd", width,
                 PySequence_Fast_GET_SIZE(list));
    Py_DECREF(list);
    return NULL;
  }
  float few[FEW], *row = width <= FEW ? few : PyMem_Malloc((size_t)width * sizeof *row);
  PyObject *margin = NULL;
  if (!row) {
    PyErr_NoMemory();
  } else if (read_row(list, width, row)) {
    margin = PyFloat_FromDouble(walk_one(self->forest, row, self->at));
  }
  if (row != few) PyMem_Free(row);
  Py_DECREF(list);
  return margin;
}

static bool is_float32(const Py_buffer *buffer) {
  return buffer->itemsize == sizeof(float) && buffer->format && !strcmp(buffer->format, "f");
}

/* Many rows take milliseconds, during which other threads may go on. */
static PyObject *compute(
    const struct forest *forest, const Py_buffer *rows, const Py_buffer *margins) {
  const Py_ssize_t width = forest->features;
  const Py_ssize_t count = margins->len / (Py_ssize_t)sizeof(float);
  if (!is_float32(rows) || !is_float32(margins) || rows->ndim != 2 || rows->shape[1] != width ||
      margins->ndim != 1 || rows->shape[0] != count) {
    PyErr_Format(PyExc_ValueError,
                 "rows must be float32 of shape (n, %zd), margins float32 of shape (n,)", width);
    return NULL;
  }
  bool enough;
  Py_BEGIN_ALLOW_THREADS;
  enough = forest->rows ? side_by_side(forest, rows->buf, (size_t)count, margins->buf)
                        : walk_many(forest, rows->buf, (size_t)count, margins->buf);
  Py_END_ALLOW_THREADS;
  if (!enough) return PyErr_NoMemory();
  Py_RETURN_NONE;
}

static PyObject *forest_margins(struct object *self, PyObject *arguments) {
  PyObject *read, *written, *done = NULL;
  Py_buffer rows, margins;
  if (!PyArg_ParseTuple(arguments, "OO:margins", &read, &written)) return NULL;
  if (PyObject_GetBuffer(read, &rows, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)) return NULL;
  if (!PyObject_GetBuffer(written, &margins, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)) {
    done = compute(self->forest, &rows, &margins);
    PyBuffer_Release(&margins);
  }
  PyBuffer_Release(&rows);
  return done;
}

static PyObject *forest_features(struct object *self, void *nothing) {
  (void)nothing;
  return PyLong_FromUnsignedLong(self->forest->features);
}

static PyMethodDef methods[] = {
    {"margin", (PyCFunction)forest_margin, METH_O, NULL},
    {"margins", (PyCFunction)forest_margins, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"features", (getter)forest_features, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject Forest = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "bundle.models.trees._walker.Forest",
    .tp_basicsize = sizeof(struct object),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = forest_open,
    .tp_dealloc = (destructor)forest_close,
    .tp_methods = methods,
    .tp_getset = properties,
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_walker", .m_size = -1,
};

PyMODINIT_FUNC PyInit__walker(void) {
  if (PyType_Ready(&Forest)) return NULL;
  RefusedError = PyErr_NewException("bundle.models.trees._walker.RefusedError", PyExc_ValueError, NULL);
  PyObject *module = RefusedError ? PyModule_Create(&definition) : NULL;
  if (!module) return NULL;
  if (PyModule_AddObjectRef(module, "RefusedError", RefusedError) ||
      PyModule_AddObjectRef(module, "Forest", (PyObject *)&Forest) ||
      PyModule_AddIntConstant(module, "VERSION", VERSION)) {
    Py_DECREF(module);
    return NULL;
  }
  return module;
}
