// Attention over keys and values in pages. A few queries (decoding) go over the keys as they lie, row by row, so that
// each is read once for all the heads that share it; many (a prompt) go block by block through the register tile, as
// in attention.h.
#ifndef ACCELCPU_PAGED_H
#define ACCELCPU_PAGED_H

#include "attention.h"
#include "pages.h"
#include "rows.h"

namespace accelcpu {
namespace {

constexpr int kGroup = 4;                             // query rows that share a key in registers
constexpr int kChains = kLanes == 16 ? 16 : 8;        // sums under way, each of a query and a key
constexpr int64_t kLines = 64;                        // keys that stay in L1 while groups of queries pass by
static_assert(kPagedSplit % kLines == 0 && kPagedSplit % kKeys == 0 && kKeys % kLines == 0, "parts of a context are whole blocks");

INLINE int64_t padded(int64_t n) { return ceil_div(n, kLanes) * kLanes; }

// v[i] summed over its lanes, for i < N <= kLanes, in lane i: half of them are folded into the other half at each step.
template <int Step, int... I>
INLINE Vec interleave_sum(Vec a, Vec b, std::integer_sequence<int, I...>) {
  const Vec own = __builtin_shufflevector(a, b, (I & Step ? kLanes + I : I)...);
  const Vec others = __builtin_shufflevector(a, b, (I & Step ? kLanes + (I ^ Step) : (I ^ Step))...);
  return own + others;
}
template <int N, int Step = 1>
INLINE Vec lane_sums(const Vec* v) {
  using Lanes = std::make_integer_sequence<int, kLanes>;
  if constexpr (N > 1) {
    Vec half[N / 2];
    UNROLL for (int i = 0; i < N / 2; i++) half[i] = interleave_sum<Step>(v[2 * i], v[2 * i + 1], Lanes());
    return lane_sums<N / 2, Step * 2>(half);
  } else if constexpr (Step < kLanes) {
    const Vec sum = v[0] + exchange<Step>(v[0], Lanes());
    return lane_sums<1, Step * 2>(&sum);
  } else {
    return v[0];
  }
}

// The rows of one head's keys or values, of which row j begins at base + place[j] * stride.
struct PageRows {
  const char* base;
  const int64_t* place;
  int64_t stride, bytes;
  INLINE const char* row(int64_t j) const { return base + place[j] * stride; }
};
constexpr int64_t kAheadLines = 12;  // rows that are fetched ahead

INLINE void fetch(const char* row, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
}

// out[h][j] = q[h] . key[j] for Tokens keys and H queries, of width d; q is padded with zeros.
template <int P, int H, int Tokens>
INLINE void score_some(const float* q, int64_t ldq, int64_t d, const char* const* key, float* out, int64_t ldo) {
  constexpr int kHeads = H == 3 ? 4 : H, kSums = kHeads * Tokens;
  static_assert(kSums <= kLanes || kSums % kLanes == 0, "sums fill vectors");
  Vec sum[kSums] = {};
  int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes) {
    Vec k[Tokens];
    UNROLL for (int t = 0; t < Tokens; t++) k[t] = page_load<P>(key[t], i);
    UNROLL for (int h = 0; h < H; h++) {
      const Vec x = load(q + h * ldq + i);
      UNROLL for (int t = 0; t < Tokens; t++) sum[h * Tokens + t] = fma(x, k[t], sum[h * Tokens + t]);
    }
  }
  if (i < d) {
    UNROLL for (int t = 0; t < Tokens; t++) {
      const Vec k = page_load_n<P>(key[t], i, static_cast<int>(d - i));
      UNROLL for (int h = 0; h < H; h++) sum[h * Tokens + t] = fma(load(q + h * ldq + i), k, sum[h * Tokens + t]);
    }
  }
  float folded[kSums < kLanes ? kLanes : kSums];
  if constexpr (kSums <= kLanes) {
    store(folded, lane_sums<kSums>(sum));
  } else {
    UNROLL for (int s = 0; s < kSums; s += kLanes) store(folded + s, lane_sums<kLanes>(sum + s));
  }
  UNROLL for (int h = 0; h < H; h++) std::memcpy(out + h * ldo, folded + h * Tokens, Tokens * 4);
}

// The same for keys [first, end).
template <int P, int H>
NOINLINE void score_lines(const float* q, int64_t ldq, int64_t d, const PageRows& keys, int64_t first, int64_t end, float* out, int64_t ldo) {
  constexpr int kTokens = kChains / (H == 3 ? 4 : H);
  int64_t j = first;
  for (; j + kTokens <= end; j += kTokens) {
    const char* key[kTokens];
    UNROLL for (int t = 0; t < kTokens; t++) {
      key[t] = keys.row(j + t);
      fetch(keys.row(min_of(j + t + kAheadLines, end - 1)), keys.bytes);
    }
    score_some<P, H, kTokens>(q, ldq, d, key, out + j, ldo);
  }
  for (; j < end; j++) {
    const char* key = keys.row(j);
    score_some<P, H, 1>(q, ldq, d, &key, out + j, ldo);
  }
}

// out[h] += sum over rows j in [first, end) of weight[h][j] * value[j], for Cols vectors from `at` on.
template <int P, int H, int Cols>
INLINE void add_columns(const float* weight, int64_t ldw, const PageRows& values, int64_t first, int64_t end, int64_t at, int tail, float* out, int64_t ldo) {
  Vec sum[H][Cols];
  UNROLL for (int h = 0; h < H; h++)
    UNROLL for (int c = 0; c < Cols; c++) sum[h][c] = load(out + h * ldo + at + c * kLanes);
  for (int64_t j = first; j < end; j++) {
    const char* row = values.row(j);
    if (at == 0) fetch(values.row(min_of(j + kAheadLines, end - 1)), values.bytes);
    Vec v[Cols];
    UNROLL for (int c = 0; c < Cols; c++) v[c] = tail ? page_load_n<P>(row, at, tail) : page_load<P>(row, at + c * kLanes);
    UNROLL for (int h = 0; h < H; h++) {
      const Vec w = splat(weight[h * ldw + j]);
      UNROLL for (int c = 0; c < Cols; c++) sum[h][c] = fma(w, v[c], sum[h][c]);
    }
  }
  UNROLL for (int h = 0; h < H; h++)
    UNROLL for (int c = 0; c < Cols; c++) store(out + h * ldo + at + c * kLanes, sum[h][c]);
}
template <int P, int H>
NOINLINE void add_lines(const float* weight, int64_t ldw, int64_t d, const PageRows& values, int64_t first, int64_t end, float* out, int64_t ldo) {
  constexpr int kCols = H <= 2 ? 4 : 2;
  int64_t at = 0;
  for (; at + kCols * kLanes <= d; at += kCols * kLanes) add_columns<P, H, kCols>(weight, ldw, values, first, end, at, 0, out, ldo);
  for (; at + kLanes <= d; at += kLanes) add_columns<P, H, 1>(weight, ldw, values, first, end, at, 0, out, ldo);
  if (at < d) add_columns<P, H, 1>(weight, ldw, values, first, end, at, static_cast<int>(d - at), out, ldo);
}

using ScoreFn = void (*)(const float*, int64_t, int64_t, const PageRows&, int64_t, int64_t, float*, int64_t);
using AddFn = ScoreFn;
template <int P>
struct Group {
  static constexpr ScoreFn score[kGroup] = {score_lines<P, 1>, score_lines<P, 2>, score_lines<P, 3>, score_lines<P, 4>};
  static constexpr AddFn add[kGroup] = {add_lines<P, 1>, add_lines<P, 2>, add_lines<P, 3>, add_lines<P, 4>};
};

// One task: an item's queries that read one key head.
struct PagedTask {
  const accelcpu_paged& o;
  const PagedData& d;
  const PagedItem& item;
  int64_t head, group;  // key head; query heads that share it
  int64_t rows;         // (token, query head), token by token

  INLINE PagedTask(const accelcpu_paged& op, const PagedData& data, const PagedItem& i, int64_t h)
      : o(op), d(data), item(i), head(h), group(op.heads / op.kv_heads), rows(i.row1 - i.row0) {}

  INLINE int64_t token(int64_t row) const { return (item.row0 + row) / group; }  // of the sequence's new ones
  INLINE int64_t query_head(int64_t row) const { return head * group + (item.row0 + row) % group; }
  INLINE int64_t position(int64_t row) const { return item.length - item.tokens + token(row); }
  // The keys that a row sees: [first, end).
  INLINE int64_t first(int64_t row) const { return o.window > 0 ? max_of<int64_t>(0, position(row) - o.window + 1) : 0; }
  INLINE int64_t end(int64_t row) const { return o.causal ? position(row) + 1 : item.length; }
  INLINE const float* query(int64_t row) const { return d.q + (item.start + token(row)) * o.ldq + query_head(row) * o.head_dim; }
  INLINE float* output(int64_t row) const { return d.o + ((item.start + token(row)) * o.heads + query_head(row)) * o.v_dim; }
  // Where a part of a context leaves a row: its sum, then its maximum and the sum of its weights.
  INLINE float* partial(int64_t row) const { return item.partial + (head * rows + row) * (o.v_dim + 2); }

  // Where positions [j0, j0 + n) lie, counted in rows of all heads.
  INLINE void places(int64_t j0, int64_t n, int64_t* place) const {
    const int64_t* table = d.page_tables + item.sequence * d.table_width;
    for (int64_t j = 0; j < n;) {
      const int64_t page = (j0 + j) / o.page_size, within = (j0 + j) % o.page_size, count = min_of(n - j, o.page_size - within);
      const int64_t from = table[page] * o.page_size + within;
      for (int64_t i = 0; i < count; i++) place[j + i] = from + i;
      j += count;
    }
  }
  INLINE PageRows keys(const int64_t* place) const { return lines(d.k_pages, page_format(o.k_type), o.head_dim, place); }
  INLINE PageRows values(const int64_t* place) const { return lines(d.v_pages, page_format(o.v_type), o.v_dim, place); }
  INLINE PageRows lines(const char* pages, Page p, int64_t width, const int64_t* place) const {
    const int64_t bytes = page_bytes(p, width);
    return {pages + head * bytes, place, o.kv_heads * bytes, bytes};
  }
  INLINE void scales(const uint16_t* from, const int64_t* place, int64_t n, float* to) const {
    for (int64_t j = 0; j < n; j++) to[j] = half(from[place[j] * o.kv_heads + head]);
  }

  // Scores of a row, of keys [j0, j0 + n): biased and capped, those out of sight -inf. Returns the greatest. Padded with -inf.
  INLINE float finish_scores(int64_t row, int64_t j0, int64_t n, float* x) const {
    const int64_t p = position(row), low = min_of(n, max_of<int64_t>(0, first(row) - j0)), high = max_of(low, min_of(n, end(row) - j0));
    if (d.bias) {
      const float* bias = d.bias + query_head(row) * o.bias_columns;
      for (int64_t j = low; j < high; j++) x[j] += bias[min_of(p - j0 - j, o.bias_columns - 1)];
    }
    for (int64_t j = 0; j < low; j++) x[j] = -INFINITY;
    for (int64_t j = high; j < padded(n); j++) x[j] = -INFINITY;
    Vec top = splat(-INFINITY);
    for (int64_t j = 0; j < n; j += kLanes) {
      Vec v = load(x + j);
      if (o.softcap > 0) {
        v = v == -INFINITY ? v : tanh(v / o.softcap) * o.softcap;
        store(x + j, v);
      }
      top = max(top, v);
    }
    return greatest(top);
  }

  // A row's result, from its sum (not yet divided by the sum of weights).
  template <class F>
  INLINE void give(int64_t row, float top, float total, F sum) const {
    const float factor = item.partial ? 1.0f : total == 0.0f ? 0.0f : 1.0f / total;
    float* to = item.partial ? partial(row) : output(row);
    along(o.v_dim, [&](int64_t j, int n) { store_up_to(to + j, sum(j) * factor, n); });
    if (item.partial) to[o.v_dim] = top, to[o.v_dim + 1] = total;
  }
};

// e^(x - top) for n scores, padded to whole vectors; returns their sum.
INLINE float weigh(float* x, int64_t n, float top) {
  Vec total = {};
  const float shift = top == -INFINITY ? 0.0f : top;
  for (int64_t j = 0; j < n; j += kLanes) {
    const Vec e = exp_nonpositive(load(x + j) - shift);
    store(x + j, e);
    total += e;
  }
  return sum(total);
}

// Few rows, at most kPagedSplit keys.
void attend_few(const PagedTask& t, void* scratch) {
  const accelcpu_paged& o = t.o;
  const int64_t n = t.item.end - t.item.first, ldq = padded(o.head_dim), ldo = padded(o.v_dim), lds = kPagedSplit;
  float* q = static_cast<float*>(scratch);
  float* out = q + kPagedFewRows * ldq;
  float* scores = out + kPagedFewRows * ldo;
  float* scale = scores + kPagedFewRows * lds;
  int64_t* place = reinterpret_cast<int64_t*>(scale + kPagedSplit);
  static_assert((2 * kPagedFewRows * 1024 + kPagedFewRows * kPagedSplit + kPagedSplit) * 4 + kPagedSplit * 8 <= kScratchBytes, "scratch");
  for (int64_t r = 0; r < t.rows; r++) {
    const float* from = t.query(r);
    along(ldq, [&](int64_t j, int) { store(q + r * ldq + j, j + kLanes <= o.head_dim ? load(from + j) * o.scale : load_n(from + j, static_cast<int>(o.head_dim - j)) * o.scale); });
  }
  std::memset(out, 0, static_cast<size_t>(t.rows * ldo) * 4);
  t.places(t.item.first, n, place);

  const PageRows keys = t.keys(place), values = t.values(place);
  with_page(page_format(o.k_type), [&](auto page) {
    for (int64_t j = 0; j < n; j += kLines) {
      for (int64_t r = 0; r < t.rows; r += kGroup)
        Group<decltype(page)::value>::score[min_of<int64_t>(kGroup, t.rows - r) - 1](q + r * ldq, ldq, o.head_dim, keys, j, min_of(n, j + kLines), scores + r * lds, lds);
    }
  });
  if (t.d.k_scales) t.scales(t.d.k_scales, place, n, scale);
  float top[kPagedFewRows], total[kPagedFewRows];
  for (int64_t r = 0; r < t.rows; r++) {
    float* x = scores + r * lds;
    if (t.d.k_scales) along(n, [&](int64_t j, int lanes) { store_up_to(x + j, load_up_to(x + j, lanes) * load_up_to(scale + j, lanes), lanes); });
    top[r] = t.finish_scores(r, t.item.first, n, x);
    total[r] = weigh(x, n, top[r]);
  }
  if (t.d.v_scales) {
    t.scales(t.d.v_scales, place, n, scale);
    for (int64_t r = 0; r < t.rows; r++)
      along(n, [&](int64_t j, int lanes) { store_up_to(scores + r * lds + j, load_up_to(scores + r * lds + j, lanes) * load_up_to(scale + j, lanes), lanes); });
  }
  with_page(page_format(o.v_type), [&](auto page) {
    for (int64_t j = 0; j < n; j += kLines) {
      for (int64_t r = 0; r < t.rows; r += kGroup)
        Group<decltype(page)::value>::add[min_of<int64_t>(kGroup, t.rows - r) - 1](scores + r * lds, lds, o.v_dim, values, j, min_of(n, j + kLines), out + r * ldo, ldo);
    }
  });
  for (int64_t r = 0; r < t.rows; r++) t.give(r, top[r], total[r], [&](int64_t j) { return load(out + r * ldo + j); });
}

// dst[j] = row j as numbers.
template <int P>
NOINLINE void read_lines(const PageRows& lines, const float* scale, int64_t n, int64_t width, float* dst) {
  for (int64_t j = 0; j < n; j++) {
    const char* row = lines.row(j);
    const float factor = scale ? scale[j] : 1.0f;
    float* to = dst + j * width;
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) store(to + i, page_load<P>(row, i) * factor);
    if (i < width) store_n(to + i, page_load_n<P>(row, i, static_cast<int>(width - i)) * factor, static_cast<int>(width - i));
  }
}

// What attend_many() lays out in its scratch.
constexpr int64_t many_floats(int64_t rows, int64_t keys, int64_t width) {
  return rows * width + (rows + kRows) * (width + kPanel) + 2 * keys * (width + kPanel) + keys * width + 2 * kQueryTiles * kRows * kKeys + 2 * rows + 3 * kKeys;
}
static_assert(many_floats(kPagedRows, kKeys, 256) * 4 <= kScratchBytes && many_floats(kPagedWideRows, kPanel, 1024) * 4 <= kScratchBytes, "scratch");

void attend_many(const PagedTask& t, void* scratch) {
  const accelcpu_paged& o = t.o;
  const int64_t width = max_of(o.head_dim, o.v_dim), block = width <= 256 ? kKeys : kPanel, limit = width <= 256 ? kPagedRows : kPagedWideRows;
  const int64_t tiles = ceil_div(t.rows, kRows), v_panels = ceil_div(o.v_dim, kPanel);
  float* q = static_cast<float*>(scratch);
  float* out = q + limit * o.head_dim;                                  // [tile][v panel] of kTile
  float* keys = out + (limit + kRows) * v_panels * kPanel;              // [panel][head_dim][kPanel]
  float* values = keys + block * o.head_dim;                            // [v panel][key][kPanel]
  float* numbers = values + block * v_panels * kPanel;                  // [key][width]
  float* scores = numbers + block * width;                              // [tile][panel] of kTile
  float* weights = scores + kQueryTiles * kRows * kKeys;                // [row][key]
  float* top = weights + kQueryTiles * kRows * kKeys;                   // a row's running maximum,
  float* total = top + limit;                                           // and the sum of its weights
  float* scale = total + limit;
  int64_t* place = reinterpret_cast<int64_t*>(static_cast<char*>(scratch) + kScratchBytes) - kKeys;
  for (int64_t r = 0; r < t.rows; r++) {
    const float* from = t.query(r);
    along(o.head_dim, [&](int64_t j, int n) { store_up_to(q + r * o.head_dim + j, load_up_to(from + j, n) * o.scale, n); });
    top[r] = -INFINITY;
    total[r] = 0.0f;
  }
  std::memset(out, 0, static_cast<size_t>(tiles * v_panels * kTile) * 4);

  const PageRows k_lines = t.keys(place), v_lines = t.values(place);
  for (int64_t j0 = t.item.first; j0 < t.item.end; j0 += block) {
    const int64_t n = min_of(block, t.item.end - j0), panels = ceil_div(n, kPanel);
    t.places(j0, n, place);
    if (t.d.k_scales) t.scales(t.d.k_scales, place, n, scale);
    with_page(page_format(o.k_type), [&](auto page) { read_lines<decltype(page)::value>(k_lines, t.d.k_scales ? scale : nullptr, n, o.head_dim, numbers); });
    pack_panels(numbers, 1, o.head_dim, o.head_dim, n, keys);
    if (t.d.v_scales) t.scales(t.d.v_scales, place, n, scale);
    with_page(page_format(o.v_type), [&](auto page) { read_lines<decltype(page)::value>(v_lines, t.d.v_scales ? scale : nullptr, n, o.v_dim, numbers); });
    pack_panels(numbers, o.v_dim, 1, n, o.v_dim, values);
    for (int64_t t0 = 0; t0 < tiles; t0 += kQueryTiles) {
      const int64_t t1 = min_of(tiles, t0 + kQueryTiles);
      // Tiles none of whose rows sees this block, as under the diagonal of a prompt.
      if (t.end(part(t1, t.rows, tiles) - 1) <= j0 || t.first(part(t0, t.rows, tiles)) >= j0 + n) continue;
      for (int64_t p = 0; p < panels; p++) {
        for (int64_t i = t0; i < t1; i++) {
          const int64_t row = part(i, t.rows, tiles);
          kTileProduct[part(i + 1, t.rows, tiles) - row - 1](q + row * o.head_dim, o.head_dim, keys + p * o.head_dim * kPanel, kPanel, o.head_dim, scores + ((i - t0) * panels + p) * kTile, false);
        }
      }
      for (int64_t i = t0; i < t1; i++) {
        const int64_t row0 = part(i, t.rows, tiles), row1 = part(i + 1, t.rows, tiles);
        for (int64_t row = row0; row < row1; row++) {
          float* x = weights + ((i - t0) * kRows + row - row0) * kKeys;
          for (int64_t p = 0; p < panels; p++) {
            const float* from = scores + ((i - t0) * panels + p) * kTile + (row - row0) * kPanel;
            UNROLL for (int c = 0; c < kCols; c++) store(x + p * kPanel + c * kLanes, load(from + c * kLanes));
          }
          const float before = top[row], now = max_of(before, t.finish_scores(row, j0, n, x));
          const float all = weigh(x, n, now);
          const float shrink = now == before ? 1.0f : before == -INFINITY ? 0.0f : std::exp(before - now);
          top[row] = now;
          total[row] = total[row] * shrink + all;
          if (shrink != 1.0f && j0 > t.item.first) {
            for (int64_t vp = 0; vp < v_panels; vp++) {
              float* o_row = out + (i * v_panels + vp) * kTile + (row - row0) * kPanel;
              for (int c = 0; c < kCols; c++) store(o_row + c * kLanes, load(o_row + c * kLanes) * shrink);
            }
          }
        }
      }
      for (int64_t vp = 0; vp < v_panels; vp++) {
        for (int64_t i = t0; i < t1; i++) {
          const int64_t count = part(i + 1, t.rows, tiles) - part(i, t.rows, tiles);
          kTileProduct[count - 1](weights + (i - t0) * kRows * kKeys, kKeys, values + vp * n * kPanel, kPanel, n, out + (i * v_panels + vp) * kTile, true);
        }
      }
    }
  }
  for (int64_t i = 0; i < tiles; i++) {
    const int64_t row0 = part(i, t.rows, tiles), row1 = part(i + 1, t.rows, tiles);
    for (int64_t row = row0; row < row1; row++)
      t.give(row, top[row], total[row], [&](int64_t j) { return load(out + (i * v_panels + j / kPanel) * kTile + (row - row0) * kPanel + j % kPanel); });
  }
}

// Joins the parts of one context, for one key head.
void join_parts(const accelcpu_paged& o, const PagedData& d, const PagedItem* parts, int64_t head) {
  const PagedTask first(o, d, parts[0], head);
  const int64_t count = parts[0].parts;
  for (int64_t r = 0; r < first.rows; r++) {
    const float* from = first.partial(r);
    const int64_t next = o.kv_heads * first.rows * (o.v_dim + 2);
    float top = -INFINITY, total = 0.0f;
    for (int64_t i = 0; i < count; i++) top = max_of(top, from[i * next + o.v_dim]);
    float* to = first.output(r);
    std::memset(to, 0, static_cast<size_t>(o.v_dim) * 4);
    for (int64_t i = 0; i < count; i++) {
      const float* p = from + i * next;
      const float factor = p[o.v_dim] == -INFINITY && top == -INFINITY ? 1.0f : std::exp(p[o.v_dim] - top);
      total += p[o.v_dim + 1] * factor;
      along(o.v_dim, [&](int64_t j, int n) { store_up_to(to + j, fma(load_up_to(p + j, n), splat(factor), load_up_to(to + j, n)), n); });
    }
    const float factor = total == 0.0f ? 0.0f : 1.0f / total;
    along(o.v_dim, [&](int64_t j, int n) { store_up_to(to + j, load_up_to(to + j, n) * factor, n); });
  }
}

// Stores one head of all tokens, in their order: a later one wins a place.
void write_pages(const accelcpu_paged& o, const PagedData& d, bool values, int64_t head) {
  const int64_t width = values ? o.v_dim : o.head_dim, ld = values ? o.ldv : o.ldk;
  const Page page = page_format(values ? o.v_type : o.k_type);
  const int64_t bytes = page_bytes(page, width);
  const float* from = (values ? d.v : d.k) + head * width;
  char* pages = values ? d.v_pages : d.k_pages;
  uint16_t* scales = values ? d.v_scales : d.k_scales;
  for (int64_t t = 0; t < o.tokens; t++) {
    const int64_t at = d.slots[t] * o.kv_heads + head;
    with_page(page, [&](auto p) {
      constexpr int kType = decltype(p)::value;
      if constexpr (kType == kPageI8 || kType == kPageU4) {
        scales[at] = page_quantise<kType>(from + t * ld, width, pages + at * bytes);
      } else {
        page_store<kType>(from + t * ld, width, pages + at * bytes);
      }
    });
  }
}

void paged(Workers& w, const accelcpu_paged& o, const PagedData& d) {
  if (d.k) {
    const bool small = o.tokens * o.kv_heads * (o.head_dim + o.v_dim) < kGrain / 2;
    w.each(small ? 1 : 2 * o.kv_heads, [&](int64_t task, void*) {
      for (int64_t i = task; i < (small ? 2 * o.kv_heads : task + 1); i++) write_pages(o, d, i % 2 != 0, i / 2);
    });
  }
  w.each(d.item_count * o.kv_heads, [&](int64_t task, void* scratch) {
    const PagedTask t(o, d, d.items[task / o.kv_heads], task % o.kv_heads);
    if (t.item.few) {
      attend_few(t, scratch);
    } else {
      attend_many(t, scratch);
    }
  });
  w.each(d.joined_count * o.kv_heads, [&](int64_t task, void*) { join_parts(o, d, d.items + d.joined[task / o.kv_heads], task % o.kv_heads); });
}

}  // namespace
}  // namespace accelcpu
#endif
