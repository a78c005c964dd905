/* A table of trees as a file holds it, and the forest that is laid out from it to be walked.

   table.c   reads a file and checks every number in it
   layout.c  lays a checked table out: for one row, and for many rows side by side
   walk.c    one row down the trees, and blocks of rows
   columns.c many rows side by side, a byte of a vector each
   module.c  the Python module

   Only module.c knows Python; nothing here is specific to one model. */
#ifndef EVERGREEN_FOREST_H
#define EVERGREEN_FOREST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VERSION 1
#define MAGIC "EVGTREES"
#define HEADER 40

/* Trees that a row goes down at once. */
#define GROUP 8
/* A node names the place of its value in 16 bits, and the distance to its children, too. */
#define PLACES 65536u
#define DEPTH 255
/* What the categories of a forest may take when they are laid out, in bytes. */
#define CATEGORY_BYTES (64u << 20)
/* Rows that are computed together, as far as their values take no more memory than this. */
#define BLOCK 32
#define MEMORY (1u << 18)
/* The same of rows side by side, of which a vector holds LANES. */
#define ROWS 256
#define LANES 32
/* A byte numbers the leaves of a tree of LEVELS, tells EDGES thresholds and a missing value apart,
   and holds BITS bits beside its sign. */
#define LEVELS 8
#define EDGES 254
#define BITS 7

/* A node's kind, and which values go left beside those that its comparison sends there. */
enum { LEAF = 0, NUMBER = 1, CATEGORY = 2, KIND = 3, MISSING_LEFT = 4, OTHERS_LEFT = 8 };

/* A file that was checked. Its numbers are little-endian and need not be aligned. */
struct table {
  uint32_t features, trees, nodes, sets, bytes;
  float base;
  const uint8_t *roots, *ends, *values, *asked, *kinds, *bits;
};

/* Why a file is refused: what is wrong, and where. */
struct refusal {
  char what[160], where[80];
};

/* `left` is the distance to the left child, 0 for a leaf; the right child is the next node.
   `place` is where a row's value for the node stands. A leaf's value is its threshold. */
struct node {
  float threshold;
  uint16_t place, left;
};

/* The nodes that ask for one categorical feature: the place of the first and their count. For
   every code below `codes`, for other codes, and for a missing one, `bits` has one byte a node. */
struct category {
  uint32_t feature, start, codes, count;
  size_t offset;
};

/* A node of a tree that is compared side by side. `column` is where the column of its values
   begins: a row goes right where its byte, with `bits` alone, is more than `bound`. */
struct split {
  uint32_t column;
  int8_t bound, bits;
};

struct shape {
  uint32_t split, leaf, levels;
};

struct forest {
  uint32_t features, trees, places;
  float base;

  /* For one row. `trees` is a multiple of GROUP; `depths` has one number a group. */
  struct node *nodes;
  uint32_t *roots;
  uint8_t *depths;
  struct category *categories;
  uint32_t category_count;
  uint8_t *bits;

  /* For rows side by side; `rows` is 0 where they are not computed so. `numbered` has the feature
     of each set of edges. */
  uint32_t rows, columns, numbers, shape_count;
  float *edges;
  uint32_t *numbered;
  struct category *coded;
  uint8_t *packed;
  struct split *splits;
  float *leaves;
  struct shape *shapes;
};

static inline uint32_t u32(const uint8_t *array, size_t index) {
  const uint8_t *at = array + 4 * index;
  return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline uint32_t u16(const uint8_t *array, size_t index) {
  const uint8_t *at = array + 2 * index;
  return at[0] | (uint32_t)at[1] << 8;
}

static inline float f32(const uint8_t *array, size_t index) {
  union {
    uint32_t bits;
    float value;
  } number = {u32(array, index)};
  return number.value;
}

/* Which of the rules of a category a code falls under: its own, that of other codes, or that of a
   missing one. */
static inline uint32_t rule(float code, uint32_t codes) {
  if (code != code) return codes + 1;
  return code >= 0 && code < (float)codes ? (uint32_t)code : codes;
}

/* False, and why, for a file that is not a sound table. */
bool table_read(const uint8_t *file, size_t length, struct table *table, struct refusal *refusal);

/* NULL where there is not enough memory. `forest_free` takes what `forest_new` gave, or NULL. */
struct forest *forest_new(const struct table *table);
void forest_free(struct forest *forest);

/* `at` has room for `places` numbers. */
float walk_one(const struct forest *forest, const float *row, float *at);

/* Margins of `count` rows; false where there is not enough memory. */
bool walk_many(const struct forest *forest, const float *rows, size_t count, float *margins);
bool side_by_side(const struct forest *forest, const float *rows, size_t count, float *margins);

/* Whether this processor computes rows side by side. */
bool side_by_side_here(void);

#endif
