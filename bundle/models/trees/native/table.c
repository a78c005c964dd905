/* Reading a table: every count, index and number in the file is checked here, once, before anything
   is made of it. The format is described in table.py. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "forest.h"

static bool wrong(struct refusal *refusal, const char *what, ...) {
  va_list values;
  va_start(values, what);
  vsnprintf(refusal->what, sizeof refusal->what, what, values);
  va_end(values);
  return false;
}

/* What is wrong was said before; this is where. */
static bool in(struct refusal *refusal, const char *where, ...) {
  va_list values;
  va_start(values, where);
  vsnprintf(refusal->where, sizeof refusal->where, where, values);
  va_end(values);
  return false;
}

/* The header's counts, and where the arrays begin: they fill the file to its last byte. */
static bool read_header(
    const uint8_t *file, size_t length, struct table *table, struct refusal *refusal) {
  if (length < HEADER)
    return wrong(refusal, "the file has %zu bytes, less than %d", length, HEADER);
  if (memcmp(file, MAGIC, 8))
    return wrong(refusal, "it does not begin with %s, so it is no table", MAGIC);
  if (u32(file, 2) != VERSION)
    return wrong(refusal, "its version is %u, this release reads version %d",
                  u32(file, 2), VERSION);
  table->features = u32(file, 3);
  table->trees = u32(file, 4);
  table->nodes = u32(file, 5);
  table->sets = u32(file, 6);
  table->bytes = u32(file, 7);
  table->base = f32(file, 8);
  if (u32(file, 9)) return wrong(refusal, "its last field is %u, not 0", u32(file, 9));
  if (!isfinite(table->base)) return wrong(refusal, "the base score is not finite");
  if (!table->features || 2 * (uint64_t)table->features + 1 + table->sets > PLACES)
    return wrong(refusal,
                  "%u features and %u categorical nodes need another number of places than 3 to %u",
                  table->features, table->sets, PLACES);

  const uint64_t nodes = table->nodes;
  const uint64_t wanted = HEADER + 4 * ((uint64_t)table->trees + 1) +
                          4 * ((uint64_t)table->sets + 1) + 7 * nodes + table->bytes;
  if (wanted != length)
    return wrong(refusal, "its counts need %llu bytes, the file has %zu",
                  (unsigned long long)wanted, length);
  table->roots = file + HEADER;
  table->ends = table->roots + 4 * ((size_t)table->trees + 1);
  table->values = table->ends + 4 * ((size_t)table->sets + 1);
  table->asked = table->values + 4 * (size_t)table->nodes;
  table->kinds = table->asked + 2 * (size_t)table->nodes;
  table->bits = table->kinds + table->nodes;
  return true;
}

/* Ends of parts begin at 0 and stop at `total`; no part is shorter than `least`. */
static bool check_end(const uint8_t *ends, uint32_t entry, uint32_t total, uint32_t least,
                      struct refusal *refusal) {
  const uint32_t end = u32(ends, entry);
  if (!entry && end) return wrong(refusal, "it is %u, not 0", end);
  if (end > total) return wrong(refusal, "it is %u, past the end at %u", end, total);
  if (entry && end < (uint64_t)u32(ends, entry - 1) + least)
    return wrong(refusal, "it is %u, after %u", end, u32(ends, entry - 1));
  return true;
}

static bool check_ends(const char *name, const uint8_t *ends, uint32_t parts, uint32_t total,
                       uint32_t least, struct refusal *refusal) {
  for (uint32_t entry = 0; entry <= parts; entry++)
    if (!check_end(ends, entry, total, least, refusal))
      return in(refusal, "entry %u of %s", entry, name);
  if (u32(ends, parts) == total) return true;
  wrong(refusal, "it is %u, not %u", u32(ends, parts), total);
  return in(refusal, "the last entry of %s", name);
}

static bool check_node(const struct table *table, uint32_t node, uint32_t set,
                       struct refusal *refusal) {
  const uint32_t kind = table->kinds[node], asked = u16(table->asked, node);
  const float value = f32(table->values, node);
  const uint32_t allowed = (kind & KIND) == LEAF     ? LEAF
                           : (kind & KIND) == NUMBER ? NUMBER | MISSING_LEFT
                                                     : CATEGORY | MISSING_LEFT | OTHERS_LEFT;
  if ((kind & KIND) == KIND || kind & ~allowed)
    return wrong(refusal, "its kind is %u, which no node has", kind);
  if (!isfinite(value)) return wrong(refusal, "its value is not finite");
  if ((kind & KIND) == LEAF && asked)
    return wrong(refusal, "it is a leaf, but asks for feature %u", asked);
  if (asked >= table->features)
    return wrong(refusal, "it asks for feature %u of %u", asked, table->features);
  if ((kind & KIND) == CATEGORY && u32(table->values, node))
    return wrong(refusal, "it asks for a category, but has a threshold");
  if ((kind & KIND) == CATEGORY && set >= table->sets)
    return wrong(refusal, "it is categorical node %u of %u", set + 1, table->sets);
  return true;
}

/* How far the check of a tree has come: the place of the next inner node's left child, the level of
   the node that is looked at and where that level ends, and categorical nodes of all trees. */
struct progress {
  uint32_t next, level, level_ends, sets;
};

static bool check_children(uint32_t node, uint32_t count, const struct progress *progress,
                           struct refusal *refusal) {
  if (progress->next - node >= PLACES)
    return wrong(refusal, "its children are %u nodes after it, the limit is %u",
                 progress->next - node, PLACES - 1);
  if (progress->level >= DEPTH)
    return wrong(refusal, "its children are on level %u, the limit is %d", progress->level + 1,
                 DEPTH);
  if (count - progress->next < 2)
    return wrong(refusal, "its children are outside the tree, which has %u nodes", count);
  return true;
}

/* A tree's nodes stand level by level, so that the children of its inner nodes are, two by two, the
   nodes after its root: no child is named, and none can lie behind its parent. */
static bool check_tree(const struct table *table, uint32_t tree, struct progress *progress,
                       struct refusal *refusal) {
  const uint32_t root = u32(table->roots, tree), count = u32(table->roots, tree + 1) - root;
  *progress = (struct progress){1, 0, 1, progress->sets};
  for (uint32_t node = 0; node < count; node++) {
    bool sound = node < progress->next || wrong(refusal, "it is no node's child");
    if (node == progress->level_ends) {
      progress->level++;
      progress->level_ends = progress->next;
    }
    sound = sound && check_node(table, root + node, progress->sets, refusal);
    const uint32_t kind = table->kinds[root + node] & KIND;
    if (sound && kind != LEAF) {
      sound = check_children(node, count, progress, refusal);
      progress->next += 2;
      progress->sets += kind == CATEGORY;
    }
    if (!sound) return in(refusal, "node %u of tree %u", node, tree);
  }
  return true;
}

/* Codes are laid out for all nodes of a feature as far as the longest set of one of them goes. */
static bool check_categories(const struct table *table, struct refusal *refusal) {
  uint64_t longest = 0;
  for (uint32_t set = 0; set < table->sets; set++) {
    const uint32_t bytes = u32(table->ends, set + 1) - u32(table->ends, set);
    longest = bytes > longest ? bytes : longest;
  }
  if ((8 * longest + 2) * table->sets <= CATEGORY_BYTES) return true;
  wrong(refusal, "%u sets of up to %llu codes take more than %u bytes when they are laid out",
        table->sets, (unsigned long long)(8 * longest), CATEGORY_BYTES);
  return in(refusal, "the sets of codes");
}

bool table_read(const uint8_t *file, size_t length, struct table *table, struct refusal *refusal) {
  if (!read_header(file, length, table, refusal)) return in(refusal, "the header");
  if (!check_ends("the roots", table->roots, table->trees, table->nodes, 1, refusal)) return false;
  if (!check_ends("the ends of sets", table->ends, table->sets, table->bytes, 0, refusal))
    return false;

  struct progress progress = {0};
  for (uint32_t tree = 0; tree < table->trees; tree++)
    if (!check_tree(table, tree, &progress, refusal)) return false;
  if (progress.sets == table->sets) return check_categories(table, refusal);
  wrong(refusal, "%u sets of codes stand for %u categorical nodes", table->sets, progress.sets);
  return in(refusal, "the header");
}
