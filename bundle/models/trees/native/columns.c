/* Many rows side by side, a byte of a vector each, on processors that have AVX2.

   Trees compare a feature with few different thresholds, so a value is replaced by the number of
   those that it reaches, and all nodes of a tree are compared, from the leaves up: no row waits for
   what its last comparison found. A tree stands there as a full one of its depth, whose missing
   nodes lead to one leaf. Categorical nodes are bits, seven in a byte, copied by the category's
   code. Comparing all nodes with vectors of bytes comes from Ye et al., "RapidScorer" (KDD
   2018). */
#include <stdlib.h>

#include "forest.h"

#if defined(__x86_64__)

#define WIDE __attribute__((target("avx2")))
#define INLINE WIDE static inline __attribute__((always_inline))
#define HALF (1 << (LEVELS - 1))

typedef int8_t bytes __attribute__((vector_size(LANES)));

/* A search by halves without branches, which could not be predicted. */
#define HALVE(n) edge += n * (value >= edge[n - 1]);

/* The bytes of all columns, `forest->rows` for each, for `count` rows. */
WIDE static void fill(const struct forest *forest, const float *rows, uint32_t count, int8_t *at) {
  const uint32_t features = forest->features;
  const size_t room = forest->rows;
  for (uint32_t k = 0; k < forest->numbers; k++) {
    const float *edges = forest->edges + (EDGES + 1) * (size_t)k;
    const float *column = rows + forest->numbered[k];
    int8_t *left = at + 2 * k * room, *right = left + room;
    for (uint32_t i = 0; i < count; i++) {
      const float value = column[(size_t)i * features], *edge = edges;
      HALVE(128) HALVE(64) HALVE(32) HALVE(16) HALVE(8) HALVE(4) HALVE(2) HALVE(1)
      const int8_t reached = (int8_t)(edge - edges - 128);
      left[i] = reached;
      right[i] = value != value ? 127 : reached;
    }
  }
  for (uint32_t k = 0; k < forest->category_count; k++) {
    const struct category asked = forest->coded[k];
    uint32_t rules[ROWS];
    for (uint32_t i = 0; i < count; i++)
      rules[i] = rule(rows[(size_t)i * features + asked.feature], asked.codes);
    for (uint32_t j = 0; j < asked.count; j++) {
      const uint8_t *packed = forest->packed + asked.offset + j * ((size_t)asked.codes + 2);
      int8_t *column = at + (asked.start + j) * room;
      for (uint32_t i = 0; i < count; i++) column[i] = (int8_t)packed[rules[i]];
    }
  }
}

/* -1 for each row that goes right. */
INLINE bytes right(const struct split *split, const int8_t *at, bool categorical) {
  bytes found = *(const bytes *)(at + split->column);
  if (categorical) found &= split->bits;
  return (bytes)(found > split->bound);
}

/* The number of each row's leaf: of two leaves first, then of what is under two nodes, up to the
   root. `half` is of all leaves. */
INLINE bytes leaf(const struct split *tree, uint32_t half, const int8_t *at, bool categorical) {
  bytes under[HALF], number = {0};
  for (uint32_t i = 0; i < half; i++, number += 2)
    under[i] = number - right(tree + half - 1 + i, at, categorical);
  while (half >>= 1)
    for (uint32_t i = 0; i < half; i++) {
      const bytes a = under[2 * i], b = under[2 * i + 1];
      under[i] = a ^ ((a ^ b) & right(tree + half - 1 + i, at, categorical));
    }
  return under[0];
}

/* `restrict` halves its time: what is written to sums cannot be a leaf or a column. */
INLINE void add(const struct forest *forest, uint32_t held, const int8_t *restrict at,
                float *restrict sums, bool categorical) {
  for (uint32_t tree = 0; tree < forest->shape_count; tree++) {
    const struct shape *shape = forest->shapes + tree;
    const struct split *splits = forest->splits + shape->split;
    const float *restrict leaves = forest->leaves + shape->leaf;
    for (uint32_t from = 0; from < held; from += LANES) {
      const bytes found = leaf(splits, 1u << (shape->levels - 1), at + from, categorical);
      for (uint32_t i = 0; i < LANES; i++) sums[from + i] += leaves[(uint8_t)found[i]];
    }
  }
}

WIDE static void add_numbers(
    const struct forest *forest, uint32_t held, const int8_t *at, float *sums) {
  add(forest, held, at, sums, false);
}

WIDE static void add_categories(
    const struct forest *forest, uint32_t held, const int8_t *at, float *sums) {
  add(forest, held, at, sums, true);
}

bool side_by_side(const struct forest *forest, const float *rows, size_t count, float *margins) {
  const size_t size = (size_t)forest->columns * forest->rows;
  int8_t *at = aligned_alloc(LANES, size);
  if (!at) return false;
  /* Bytes of rows that are not there are compared, too. */
  for (size_t i = 0; i < size; i++) at[i] = 0;
  float sums[ROWS];
  for (size_t first = 0; first < count; first += forest->rows) {
    const size_t left = count - first;
    const uint32_t held = left < forest->rows ? (uint32_t)left : forest->rows;
    fill(forest, rows + first * forest->features, held, at);
    for (uint32_t i = 0; i < ROWS; i++) sums[i] = forest->base;
    (forest->category_count ? add_categories : add_numbers)(forest, held, at, sums);
    for (uint32_t i = 0; i < held; i++) margins[first + i] = sums[i];
  }
  free(at);
  return true;
}

bool side_by_side_here(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2");
}

#else

bool side_by_side(const struct forest *forest, const float *rows, size_t count, float *margins) {
  return walk_many(forest, rows, count, margins);
}

bool side_by_side_here(void) { return false; }

#endif
