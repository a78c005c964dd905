/* One row down the trees, and blocks of rows.

   A row is laid out once so that every decision is `value < threshold`. Each numeric feature stands
   there twice, missing values as -inf for nodes that send them left and as +inf for those that send
   them right. A categorical node has a place of its own with 0 or 1, copied by the category's code.
   A leaf compares -inf with its value and so stays where it is. So a step has no branch that could
   be mispredicted, and eight trees are walked at once, each to the depth of the deepest of them.

   Sums are those of XGBoost: float32, from the base score, in the order of the trees. */
#include <math.h>
#include <stdlib.h>

#include "forest.h"

#define STEP(n) n += n->left + !(at[n->place] < n->threshold)
#define ADD(n) sum += n->threshold

static void lay(const struct forest *forest, const float *row, float *at) {
  const uint32_t features = forest->features;
  for (uint32_t i = 0; i < features; i++) {
    const float value = row[i];
    const bool missing = value != value;
    at[i] = missing ? -INFINITY : value;
    at[features + i] = missing ? INFINITY : value;
  }
  at[2 * features] = -INFINITY;

  for (uint32_t k = 0; k < forest->category_count; k++) {
    const struct category asked = forest->categories[k];
    const size_t which = rule(row[asked.feature], asked.codes);
    const uint8_t *bits = forest->bits + asked.offset + which * asked.count;
    for (uint32_t i = 0; i < asked.count; i++) at[asked.start + i] = bits[i];
  }
}

static inline __attribute__((always_inline)) float walk(
    const struct forest *forest, const float *restrict at, uint32_t tree, float sum) {
  const struct node *nodes = forest->nodes;
  const uint32_t *root = forest->roots + tree;
  const struct node *a = nodes + root[0], *b = nodes + root[1], *c = nodes + root[2];
  const struct node *d = nodes + root[3], *e = nodes + root[4], *f = nodes + root[5];
  const struct node *g = nodes + root[6], *h = nodes + root[7];
  for (uint32_t level = forest->depths[tree / GROUP]; level; level--) {
    STEP(a); STEP(b); STEP(c); STEP(d); STEP(e); STEP(f); STEP(g); STEP(h);
  }
  ADD(a); ADD(b); ADD(c); ADD(d); ADD(e); ADD(f); ADD(g); ADD(h);
  return sum;
}

float walk_one(const struct forest *forest, const float *row, float *at) {
  float sum = forest->base;
  lay(forest, row, at);
  for (uint32_t tree = 0; tree < forest->trees; tree += GROUP) sum = walk(forest, at, tree, sum);
  return sum;
}

/* Eight trees for a block of rows, then the next eight: their nodes stay in the nearest cache. */
bool walk_many(const struct forest *forest, const float *rows, size_t count, float *margins) {
  const size_t places = forest->places, fit = MEMORY / (4 * places);
  const size_t block = fit < 1 ? 1 : fit < BLOCK ? fit : BLOCK;
  float *at = malloc(block * places * sizeof *at);
  if (!at) return false;
  for (size_t first = 0; first < count; first += block) {
    const size_t held = count - first < block ? count - first : block;
    float *sums = margins + first;
    for (size_t i = 0; i < held; i++) {
      lay(forest, rows + (first + i) * forest->features, at + i * places);
      sums[i] = forest->base;
    }
    for (uint32_t tree = 0; tree < forest->trees; tree += GROUP)
      for (size_t i = 0; i < held; i++) sums[i] = walk(forest, at + i * places, tree, sums[i]);
  }
  free(at);
  return true;
}
