/* Laying out a table that was checked: what walk.c and columns.c read. */
#include <math.h>
#include <stdlib.h>

#include "forest.h"

/* What is known of every node and every feature while a forest is laid out. */
struct draft {
  const struct table *table;
  struct forest *forest;
  uint32_t *lefts;  /* by node: its left child in the table */
  uint32_t *sets;   /* by node: its set of codes */
  uint32_t *own;    /* by node: its place among the nodes that ask for this category */
  uint32_t *asking; /* by feature: its category, from 1 on; 0 for none */
  uint8_t *levels;  /* by tree: its depth */
  struct split *splits; /* by node, `column` counted in columns */
};

/* At least one element, so that NULL means that memory is short and nothing else. */
static void *room(size_t count, size_t size) { return calloc(count ? count : 1, size); }

static uint32_t kind_of(const struct table *table, uint32_t node) {
  return table->kinds[node] & KIND;
}

/* Children and depths, from the order in which the nodes stand. */
static bool find_children(struct draft *draft) {
  const struct table *table = draft->table;
  uint8_t *depths = room(table->nodes, sizeof *depths);
  if (!depths) return false;
  for (uint32_t tree = 0, set = 0; tree < table->trees; tree++) {
    const uint32_t root = u32(table->roots, tree), end = u32(table->roots, tree + 1);
    for (uint32_t node = root, next = root + 1; node < end; node++) {
      draft->levels[tree] = depths[node]; /* the last node is on the last level */
      if (kind_of(table, node) == LEAF) continue;
      draft->lefts[node] = next;
      depths[next] = depths[next + 1] = (uint8_t)(depths[node] + 1);
      next += 2;
      if (kind_of(table, node) == CATEGORY) draft->sets[node] = set++;
    }
  }
  free(depths);
  return true;
}

/* Which nodes ask for which category, and where their places and rules begin. */
static bool find_categories(struct draft *draft) {
  const struct table *table = draft->table;
  struct forest *forest = draft->forest;
  forest->categories = room(table->sets, sizeof *forest->categories);
  if (!forest->categories) return false;
  for (uint32_t node = 0; node < table->nodes; node++)
    if (kind_of(table, node) == CATEGORY) draft->asking[u16(table->asked, node)] = 1;
  for (uint32_t feature = 0; feature < table->features; feature++)
    if (draft->asking[feature]) {
      forest->categories[forest->category_count].feature = feature;
      draft->asking[feature] = ++forest->category_count;
    }

  for (uint32_t node = 0; node < table->nodes; node++) {
    if (kind_of(table, node) != CATEGORY) continue;
    struct category *category =
        forest->categories + draft->asking[u16(table->asked, node)] - 1;
    const uint32_t set = draft->sets[node];
    const uint32_t codes = 8 * (u32(table->ends, set + 1) - u32(table->ends, set));
    draft->own[node] = category->count++;
    if (codes > category->codes) category->codes = codes;
  }

  uint32_t place = 2 * table->features + 1;
  size_t offset = 0;
  for (uint32_t k = 0; k < forest->category_count; k++) {
    struct category *category = forest->categories + k;
    category->start = place;
    category->offset = offset;
    place += category->count;
    offset += ((size_t)category->codes + 2) * category->count;
  }
  forest->places = place;
  forest->bits = room(offset, 1);
  return forest->bits;
}

/* 1 for each rule of its category under which a node sends a row to the right. */
static void write_rules(const struct draft *draft, uint32_t node) {
  const struct table *table = draft->table;
  const struct category *category =
      draft->forest->categories + draft->asking[u16(table->asked, node)] - 1;
  const uint32_t set = draft->sets[node], kind = table->kinds[node];
  const uint8_t *held = table->bits + u32(table->ends, set);
  const uint32_t codes = 8 * (u32(table->ends, set + 1) - u32(table->ends, set));
  uint8_t *bits = draft->forest->bits + category->offset + draft->own[node];
  for (uint32_t code = 0; code <= category->codes; code++)
    bits[(size_t)code * category->count] =
        code < codes ? held[code / 8] >> code % 8 & 1 : !(kind & OTHERS_LEFT);
  bits[((size_t)category->codes + 1) * category->count] = !(kind & MISSING_LEFT);
}

/* Nodes and roots for one row. The first node is a leaf of nothing, the root of trees that fill the
   last group. */
static bool lay_nodes(struct draft *draft) {
  const struct table *table = draft->table;
  struct forest *forest = draft->forest;
  const uint32_t leaf = 2 * table->features;
  forest->trees = (table->trees + GROUP - 1) / GROUP * GROUP;
  forest->nodes = room((size_t)table->nodes + 1, sizeof *forest->nodes);
  forest->roots = room(forest->trees, sizeof *forest->roots);
  forest->depths = room(forest->trees / GROUP, sizeof *forest->depths);
  if (!forest->nodes || !forest->roots || !forest->depths) return false;

  forest->nodes[0] = (struct node){0, (uint16_t)leaf, 0};
  for (uint32_t node = 0; node < table->nodes; node++) {
    const uint32_t kind = kind_of(table, node), asked = u16(table->asked, node);
    struct node *laid = forest->nodes + node + 1;
    laid->threshold = kind == CATEGORY ? 0.5f : f32(table->values, node);
    laid->left = (uint16_t)(kind == LEAF ? 0 : draft->lefts[node] - node);
    if (kind == LEAF) {
      laid->place = (uint16_t)leaf;
    } else if (kind == NUMBER) {
      const bool left = table->kinds[node] & MISSING_LEFT;
      laid->place = (uint16_t)(left ? asked : table->features + asked);
    } else {
      const struct category *category = forest->categories + draft->asking[asked] - 1;
      laid->place = (uint16_t)(category->start + draft->own[node]);
      write_rules(draft, node);
    }
  }
  for (uint32_t tree = 0; tree < table->trees; tree++) {
    uint8_t *deepest = forest->depths + tree / GROUP;
    forest->roots[tree] = u32(table->roots, tree) + 1;
    if (draft->levels[tree] > *deepest) *deepest = draft->levels[tree];
  }
  return true;
}

struct edge {
  uint32_t feature, node;
  float threshold;
};

static int compare(const void *one, const void *other) {
  const struct edge *a = one, *b = other;
  if (a->feature != b->feature) return a->feature < b->feature ? -1 : 1;
  return (a->threshold > b->threshold) - (a->threshold < b->threshold);
}

/* Thresholds of the numeric nodes, up to EDGES of one feature side by side in a set. Each set has
   two columns: one in which missing values reach no threshold, one in which they reach all. */
static bool lay_edges(struct draft *draft) {
  const struct table *table = draft->table;
  struct forest *forest = draft->forest;
  struct edge *found = room(table->nodes, sizeof *found);
  if (!found) return false;
  uint32_t count = 0;
  for (uint32_t node = 0; node < table->nodes; node++)
    if (kind_of(table, node) == NUMBER)
      found[count++] = (struct edge){u16(table->asked, node), node, f32(table->values, node)};
  qsort(found, count, sizeof *found, compare);

  /* At most one set a feature more than full ones. */
  const size_t most = count / EDGES + (count < table->features ? count : table->features);
  forest->edges = room(most * (EDGES + 1), sizeof *forest->edges);
  forest->numbered = room(most, sizeof *forest->numbered);
  const bool enough = forest->edges && forest->numbered;
  for (uint32_t i = 0, held = 0; enough && i < count; i++) {
    const bool other = !i || found[i].feature != found[i - 1].feature;
    if (other || found[i].threshold != found[i - 1].threshold) {
      if (other || held == EDGES) {
        forest->numbered[forest->numbers++] = found[i].feature;
        held = 0;
      }
      float *set = forest->edges + (EDGES + 1) * (size_t)(forest->numbers - 1);
      set[held++] = found[i].threshold;
      /* No value reaches what is no number. */
      if (held == 1)
        for (uint32_t k = 1; k <= EDGES; k++) set[k] = NAN;
    }
    const bool left = table->kinds[found[i].node] & MISSING_LEFT;
    draft->splits[found[i].node] = (struct split){
        2 * (forest->numbers - 1) + !left, (int8_t)((int)held - 1 - 128), -1};
  }
  free(found);
  return enough;
}

/* The rules of each category as bits, BITS nodes in a byte, column by column. */
static bool lay_bits(struct draft *draft) {
  const struct table *table = draft->table;
  struct forest *forest = draft->forest;
  forest->coded = room(forest->category_count, sizeof *forest->coded);
  if (!forest->coded) return false;
  uint32_t column = 2 * forest->numbers;
  size_t size = 0;
  for (uint32_t k = 0; k < forest->category_count; k++) {
    const struct category *category = forest->categories + k;
    const uint32_t count = (category->count + BITS - 1) / BITS;
    forest->coded[k] =
        (struct category){category->feature, column, category->codes, count, size};
    column += count;
    size += ((size_t)category->codes + 2) * count;
  }
  forest->columns = column ? column : 1;
  forest->packed = room(size, 1);
  if (!forest->packed) return false;

  for (uint32_t node = 0; node < table->nodes; node++) {
    if (kind_of(table, node) != CATEGORY) continue;
    const uint32_t k = draft->asking[u16(table->asked, node)] - 1, own = draft->own[node];
    const struct category *category = forest->categories + k, *coded = forest->coded + k;
    const size_t rules = (size_t)category->codes + 2;
    const uint8_t *bits = forest->bits + category->offset + own;
    uint8_t *packed = forest->packed + coded->offset + own / BITS * rules;
    for (size_t which = 0; which < rules; which++)
      packed[which] |= (uint8_t)(bits[which * category->count] << own % BITS);
    draft->splits[node] =
        (struct split){coded->start + own / BITS, 0, (int8_t)(1 << own % BITS)};
  }
  return true;
}

/* A tree as a full one of its depth: both ways from a leaf lead to it. */
static void lay_full(struct draft *draft, uint32_t tree, struct shape shape) {
  const struct table *table = draft->table;
  struct forest *forest = draft->forest;
  struct split *splits = forest->splits + shape.split;
  uint32_t nodes[2 << LEVELS];
  const uint32_t inner = (1u << shape.levels) - 1;
  nodes[0] = u32(table->roots, tree);
  for (uint32_t i = 0; i < inner; i++) {
    const uint32_t node = nodes[i], left = draft->lefts[node];
    if (left) {
      splits[i] = draft->splits[node];
      splits[i].column *= forest->rows;
    }
    nodes[2 * i + 1] = left ? left : node;
    nodes[2 * i + 2] = left ? left + 1 : node;
  }
  for (uint32_t i = 0; i <= inner; i++)
    forest->leaves[shape.leaf + i] = f32(table->values, nodes[inner + i]);
  forest->shapes[tree] = shape;
}

/* What computes rows side by side, but for trees that are too deep or ask for too much. */
static bool lay_columns(struct draft *draft) {
  const struct table *table = draft->table;
  struct forest *forest = draft->forest;
  if (!side_by_side_here()) return true;
  for (uint32_t tree = 0; tree < table->trees; tree++)
    if (draft->levels[tree] > LEVELS) return true;
  draft->splits = room(table->nodes, sizeof *draft->splits);
  if (!draft->splits || !lay_edges(draft) || !lay_bits(draft)) return false;
  const uint32_t fit = MEMORY / forest->columns, rows = fit < ROWS ? fit : ROWS;
  if (rows < LANES) return true;

  size_t splits = 0;
  for (uint32_t tree = 0; tree < table->trees; tree++)
    splits += (1u << (draft->levels[tree] ? draft->levels[tree] : 1)) - 1;
  if (splits > UINT32_MAX / 2) return true;
  forest->splits = room(splits, sizeof *forest->splits);
  forest->leaves = room(splits + table->trees, sizeof *forest->leaves);
  forest->shapes = room(table->trees, sizeof *forest->shapes);
  if (!forest->splits || !forest->leaves || !forest->shapes) return false;
  forest->rows = rows / LANES * LANES;
  forest->shape_count = table->trees;
  struct shape shape = {0};
  for (uint32_t tree = 0; tree < table->trees; tree++) {
    /* A tree of one leaf is compared once, too. */
    shape.levels = draft->levels[tree] ? draft->levels[tree] : 1;
    lay_full(draft, tree, shape);
    shape.split += (1u << shape.levels) - 1;
    shape.leaf += 1u << shape.levels;
  }
  return true;
}

struct forest *forest_new(const struct table *table) {
  struct forest *forest = room(1, sizeof *forest);
  if (!forest) return NULL;
  forest->features = table->features;
  forest->base = table->base;
  struct draft draft = {
      .table = table,
      .forest = forest,
      .lefts = room(table->nodes, sizeof *draft.lefts),
      .sets = room(table->nodes, sizeof *draft.sets),
      .own = room(table->nodes, sizeof *draft.own),
      .asking = room(table->features, sizeof *draft.asking),
      .levels = room(table->trees, sizeof *draft.levels),
  };
  const bool laid = draft.lefts && draft.sets && draft.own && draft.asking && draft.levels &&
                    find_children(&draft) && find_categories(&draft) && lay_nodes(&draft) &&
                    lay_columns(&draft);
  free(draft.lefts);
  free(draft.sets);
  free(draft.own);
  free(draft.asking);
  free(draft.levels);
  free(draft.splits);
  if (laid) return forest;
  forest_free(forest);
  return NULL;
}

void forest_free(struct forest *forest) {
  if (!forest) return;
  free(forest->nodes);
  free(forest->roots);
  free(forest->depths);
  free(forest->categories);
  free(forest->bits);
  free(forest->edges);
  free(forest->numbered);
  free(forest->coded);
  free(forest->packed);
  free(forest->splits);
  free(forest->leaves);
  free(forest->shapes);
  free(forest);
}
