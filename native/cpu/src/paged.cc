// Attention over pages: checks, and how the work is cut.
#include "check.h"
#include "kernels.h"

namespace accelcpu {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
template <class T>
T min_of(T a, T b) { return b < a ? b : a; }
template <class T>
T max_of(T a, T b) { return b > a ? b : a; }

// Bytes of one head's row in a pool; -1 for a type or a width that can't be.
int64_t row_bytes(uint32_t type, int64_t width) {
  switch (type) {
    case ACCELCPU_F32: return width * 4;
    case ACCELCPU_F16:
    case ACCELCPU_BF16: return width * 2;
    case ACCELCPU_I8: return width;
    case ACCELCPU_U8: return width % 2 == 0 ? width / 2 : -1;
    default: return -1;
  }
}
int64_t element_bytes(uint32_t type) { return type == ACCELCPU_F32 ? 4 : type == ACCELCPU_I8 || type == ACCELCPU_U8 ? 1 : 2; }
bool quantised(uint32_t type) { return type == ACCELCPU_I8 || type == ACCELCPU_U8; }

// The ragged batch.
struct Sequences {
  const int64_t *tables, *lengths, *starts;
  int64_t count, width;
};

// Refuses what data can have wrong: before anything is written.
void check_data(Checker& c, const accelcpu_paged& o, const Sequences& s, const int64_t* slots, int64_t pages) {
  const int64_t places = pages * o.page_size;
  for (int64_t i = 0; slots && c.ok() && i < o.tokens; i++) {
    if (slots[i] < 0 || slots[i] >= places) c.refuse(ACCELCPU_INDEX, slots[i], places, "slots", i);
  }
  if (!s.starts || !c.ok()) return;
  if (s.starts[0] != 0) c.refuse(ACCELCPU_INDEX, s.starts[0], 0, "starts", 0);
  if (s.starts[s.count] != o.tokens) c.refuse(ACCELCPU_INDEX, s.starts[s.count], o.tokens, "starts", s.count);
  // Where positions do not matter, as in cross attention, queries are not among the keys and may be more than those.
  const bool ordered = slots || o.causal || o.window > 0;
  for (int64_t b = 0; c.ok() && b < s.count; b++) {
    const int64_t tokens = s.starts[b + 1] - s.starts[b], length = s.lengths[b];
    if (tokens < 0 || s.starts[b + 1] > o.tokens) return c.refuse(ACCELCPU_INDEX, s.starts[b + 1], o.tokens, "starts", b + 1);
    if (length < (ordered ? tokens : 0) || length > s.width * o.page_size) return c.refuse(ACCELCPU_INDEX, length, s.width * o.page_size, "lengths", b);
    const int64_t used = ceil_div(length, o.page_size);
    for (int64_t i = 0; i < used; i++) {
      const int64_t page = s.tables[b * s.width + i];
      if (page < 0 || page >= pages) return c.refuse(ACCELCPU_INDEX, page, pages, "page_tables", b * s.width + i);
    }
  }
}

// Cuts the work into items; of the partial results they share one stretch of memory. Called twice: without items it counts.
struct Cut {
  PagedItem* items = nullptr;
  int64_t* joined = nullptr;
  float* partials = nullptr;
  int64_t item_count = 0, joined_count = 0, partial_floats = 0;

  void sequence(const accelcpu_paged& o, const Sequences& s, int64_t b) {
    const int64_t start = s.starts[b], tokens = s.starts[b + 1] - start, length = s.lengths[b], group = o.heads / o.kv_heads;
    const bool few = tokens == 1 || tokens * group <= kPagedFewRows;
    const int64_t rows = tokens * group, most = few ? kPagedFewRows : o.head_dim > 256 || o.v_dim > 256 ? kPagedWideRows : kPagedRows;
    const int64_t blocks = ceil_div(rows, most);
    // The longest first.
    for (int64_t i = blocks - 1; i >= 0; i--) {
      PagedItem item = {b, start, tokens, length, i * rows / blocks, (i + 1) * rows / blocks, 0, length, 1, nullptr, few};
      const int64_t position = length - tokens;
      if (o.window > 0) item.first = max_of<int64_t>(0, position + item.row0 / group - o.window + 1);
      if (o.causal) item.end = position + (item.row1 - 1) / group + 1;
      item.end = max_of(item.end, item.first);
      if (few) split(o, item);
      else add(item);
    }
  }

  void split(const accelcpu_paged& o, PagedItem item) {
    const int64_t end = item.end;
    item.parts = max_of<int64_t>(1, ceil_div(end - item.first, kPagedSplit));
    if (item.parts > 1) {
      if (joined) joined[joined_count] = item_count;
      joined_count++;
    }
    for (int64_t i = item.parts; i > 0; i--, item.first = item.end) {
      item.end = min_of(end, item.first + kPagedSplit);
      if (item.parts > 1) {
        item.partial = partials ? partials + partial_floats : nullptr;
        partial_floats += o.kv_heads * (item.row1 - item.row0) * (o.v_dim + 2);
      }
      add(item);
    }
  }

  void add(const PagedItem& item) {
    if (items) items[item_count] = item;
    item_count++;
  }
};

}  // namespace

void* Space::grow(int64_t wanted) {
  if (wanted > bytes) {
    aligned_release(data);
    bytes = 0;
    data = aligned_allocate(wanted);
    if (data) bytes = wanted;
  }
  return data;
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_paged& o) {
  c.size("tokens", o.tokens);
  c.size("heads", o.heads);
  c.size("kv_heads", o.kv_heads, 1);
  c.size("head_dim", o.head_dim, 1);
  c.size("v_dim", o.v_dim, 1);
  c.size("page_size", o.page_size, 1);
  c.size("pages", o.pages, -1);
  c.size("sequences", o.sequences, -1);
  c.size("table_width", o.table_width, -1);
  c.stride("window", o.window, 0);
  c.require(o.head_dim <= kMaxHeadDim && o.v_dim <= kMaxHeadDim, ACCELCPU_UNSUPPORTED, "heads are wider than 1024", max_of(o.head_dim, o.v_dim));
  c.require(o.causal <= 1, ACCELCPU_INVALID, "causal is neither 0 nor 1", o.causal);
  c.require(o.bias.buffer == 0 || (o.causal && o.bias_columns > 0), ACCELCPU_INVALID, "a bias needs causal and columns", o.bias_columns);
  const bool writes = o.k.buffer != 0, attends = o.q.buffer != 0;
  c.require(writes == (o.v.buffer != 0) && writes == (o.slots.buffer != 0), ACCELCPU_INVALID, "k, v and slots go together, k", o.k.buffer);
  if (!c.ok()) return;
  const int64_t k_row = row_bytes(o.k_type, o.head_dim), v_row = row_bytes(o.v_type, o.v_dim);
  c.require(k_row >= 0, ACCELCPU_UNSUPPORTED, "no pages of keys in such a type or width", o.k_type);
  c.require(v_row >= 0, ACCELCPU_UNSUPPORTED, "no pages of values in such a type or width", o.v_type);
  int64_t rows;  // of a page
  c.require(!__builtin_mul_overflow(o.page_size, o.kv_heads, &rows) && rows <= kMaxSize, ACCELCPU_INVALID, "pages are too large, page_size", o.page_size);
  if (!c.ok()) return;

  PagedData d = {};
  const struct { const char *name, *scales_name; const accelcpu_ref &pages, &scales; int64_t row; uint32_t type; char** data; uint16_t** scale; } pools[] = {
      {"k_pages", "k_scales", o.k_pages, o.k_scales, k_row, o.k_type, &d.k_pages, &d.k_scales},
      {"v_pages", "v_scales", o.v_pages, o.v_scales, v_row, o.v_type, &d.v_pages, &d.v_scales},
  };
  int64_t pages = o.pages;
  if (pages < 0) {
    pages = kMaxSize;
    for (const auto& p : pools) pages = min_of(pages, c.available(p.pages) / (rows * p.row));
  }
  for (const auto& p : pools) {
    c.require(quantised(p.type) == (p.scales.buffer != 0), ACCELCPU_INVALID, "scales go with int8 and 4 bits, type", p.type);
    const int64_t each = element_bytes(p.type);
    *p.data = c.required<char>(p.name, p.pages, Extent().dim(pages, rows * p.row / each).dim(rows * p.row / each, 1), each);
    *p.scale = c.optional<uint16_t>(p.scales_name, p.scales, dense3(pages, rows, 1));
  }
  const Extent keys = Extent().dim(o.tokens, o.ldk).dim(o.kv_heads, o.head_dim).dim(o.head_dim, 1);
  const Extent values = Extent().dim(o.tokens, o.ldv).dim(o.kv_heads, o.v_dim).dim(o.v_dim, 1);
  c.stride("ldk", o.ldk, 0);
  c.stride("ldv", o.ldv, 0);
  c.stride("ldq", o.ldq, 0);
  d.k = c.optional<const float>("k", o.k, keys);
  d.v = c.optional<const float>("v", o.v, values);
  d.slots = c.optional<const int64_t>("slots", o.slots, dense(o.tokens));
  Sequences s = {};
  if (attends) {
    c.require(o.heads % o.kv_heads == 0, ACCELCPU_INVALID, "heads is no multiple of kv_heads", o.heads);
    s.count = o.sequences < 0 ? c.available(o.lengths) / 8 : o.sequences;
    s.width = o.table_width < 0 ? (s.count == 0 ? 0 : c.available(o.page_tables) / 8 / s.count) : o.table_width;
    c.require(o.sequences >= 0 || c.available(o.starts) / 8 == s.count + 1, ACCELCPU_INDEX, "starts has not one number more than lengths, which has", s.count);
    c.require(o.table_width >= 0 || c.available(o.page_tables) / 8 == s.count * s.width, ACCELCPU_INDEX, "page_tables has not a row for each of lengths, which has", s.count);
    s.tables = c.required<const int64_t>("page_tables", o.page_tables, dense3(s.count, s.width, 1));
    s.lengths = c.required<const int64_t>("lengths", o.lengths, dense(s.count));
    s.starts = c.required<const int64_t>("starts", o.starts, dense(s.count + 1));
    d.q = c.required<const float>("q", o.q, Extent().dim(o.tokens, o.ldq).dim(o.heads, o.head_dim).dim(o.head_dim, 1));
    d.bias = c.optional<const float>("bias", o.bias, dense3(o.heads, o.bias_columns, 1));
    d.o = c.required<float>("o", o.o, dense3(o.tokens, o.heads, o.v_dim));
  }
  if (!c.ok()) return;
  check_data(c, o, s, d.slots, pages);
  if (!c.ok()) return;
  d.page_tables = s.tables;
  d.table_width = s.width;
  if (attends && o.heads > 0) {
    Cut cut;
    for (int64_t b = 0; b < s.count; b++) cut.sequence(o, s, b);
    const int64_t item_bytes = cut.item_count * static_cast<int64_t>(sizeof(PagedItem)), joined_bytes = cut.joined_count * 8;
    char* space = static_cast<char*>(w.space->grow(item_bytes + joined_bytes + cut.partial_floats * 4 + 64));
    c.require(space, ACCELCPU_MEMORY, "out of memory for partial results, items", cut.item_count);
    if (!c.ok()) return;
    Cut filled;
    filled.items = reinterpret_cast<PagedItem*>(space);
    filled.joined = reinterpret_cast<int64_t*>(space + item_bytes);
    filled.partials = reinterpret_cast<float*>(space + item_bytes + joined_bytes);
    for (int64_t b = 0; b < s.count; b++) filled.sequence(o, s, b);
    d.items = filled.items;
    d.item_count = filled.item_count;
    d.joined = filled.joined;
    d.joined_count = filled.joined_count;
  }
  k.paged(w, o, d);
}

}  // namespace accelcpu
