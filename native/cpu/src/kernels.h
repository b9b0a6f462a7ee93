// What the instruction sets' objects and the common code know of one another.
#ifndef ACCELCPU_KERNELS_H
#define ACCELCPU_KERNELS_H

#include <atomic>
#include <cstdint>

#include "../include/accelcpu.h"
#include "pool.h"

namespace accelcpu {

// What went wrong while a kernel ran, as far as that depends on data. The first
// thread to tell is heard.
class Fault {
 public:
  __attribute__((always_inline)) void set(accelcpu_code code, int64_t value, int64_t limit) {
    bool none = false;
    if (!taken_.compare_exchange_strong(none, true)) return;
    code_ = code;
    value_ = value;
    limit_ = limit;
  }
  // To be read when no kernel runs any more.
  accelcpu_code code() const { return code_; }
  int64_t value() const { return value_; }
  int64_t limit() const { return limit_; }

 private:
  std::atomic<bool> taken_{false};
  accelcpu_code code_ = ACCELCPU_OK;
  int64_t value_ = 0, limit_ = 0;
};

// Memory of a run beside its scratch, as large as the largest operation so far asked for.
struct Space {
  void* data = nullptr;
  int64_t bytes = 0;

  // At least so many bytes, 64-byte aligned, contents arbitrary; null if there is no memory.
  void* grow(int64_t wanted);
};

// Where a kernel finds its threads.
struct Workers {
  Pool* pool;
  void* scratch;  // the calling thread's
  Space* space;
  Fault fault;

  // Inlined, as all that instruction sets' objects call from here: a copy that the linker
  // shared between them would hold the instructions of one.
  __attribute__((always_inline)) int threads() const { return pool->threads(); }
  // f(index, scratch) for every index.
  template <class F>
  __attribute__((always_inline)) void each(int64_t count, const F& f) {
    pool->run(
        count, [](void* arg, int64_t i, void* memory) { (*static_cast<const F*>(arg))(i, memory); },
        const_cast<void*>(static_cast<const void*>(&f)), scratch);
  }
};

// The operands of an operation as addresses, in the order of its struct; absent ones are
// null. The struct was checked, and so were the extents.
struct PackData { const void* src; void* dst; };
struct GemmData { const void *a, *b; const float *bias, *residual; float* c; };
struct PackBlocksData { const uint8_t *codes, *scales, *offsets; uint8_t* dst; };
struct GatherBlocksData { const uint8_t *codes, *scales, *offsets; const void* index; float* y; };
struct QuantizeRowsData { const float* x; uint8_t* q; };
struct GemmBlocksData { const void* a; const uint8_t* b; const float *bias, *residual; float* c; };
struct MatMulData { const float *a, *b, *bias; float* c; };
struct AttentionData { const float *q, *k, *v; const void* mask; const int64_t* lengths; float* o; };
struct NormData { const float *x, *residual, *gamma, *beta; float *sum, *y; };
struct SoftmaxData { const float* x; float* y; };
struct MapData { const void* in[ACCELCPU_MAP_INPUTS]; void* out; };
struct CopyData { const char* src; char* dst; };
struct GatherData { const char* data; const void* index; char* y; };
struct EmbedData { const float* table[ACCELCPU_EMBED_TABLES]; const void* ids[ACCELCPU_EMBED_TABLES]; const float *gamma, *beta; float* y; };
struct ReduceData { const float *x, *weight; float* y; };
struct ConvData { const float *x, *w, *bias, *residual; float* y; };
struct PoolData { const float* x; float* y; };
struct ResampleData { const float* x; const int32_t* index; const float* weight; float* y; };
struct GridSampleData { const float *x, *grid; float* y; };
struct GroupNormData { const float *x, *scale, *bias; float* y; };

struct RopeData { const float *x, *cos, *sin; const int64_t* positions; float* y; };

// Attention over pages is cut into items, each for all key heads: a range of one sequence's queries, counted as
// (token, query head of those that share a key head), and a range of its keys.
struct PagedItem {
  int64_t sequence, start, tokens, length;  // first of its tokens among all, how many, keys in its pages
  int64_t row0, row1;                       // queries
  int64_t first, end;                       // keys
  int64_t parts;                            // items from here on that are joined
  float* partial;                           // [kv_heads, rows, v_dim + 2] of a part; null: the only one
  bool few;                                 // at most kPagedFewRows queries and kPagedSplit keys
};
constexpr int64_t kPagedFewRows = 32;   // queries that go over their keys row by row
constexpr int64_t kPagedSplit = 256;    // keys of one part, if the queries are few
constexpr int64_t kPagedRows = 120;     // queries of an item otherwise,
constexpr int64_t kPagedWideRows = 16;  // and where heads are wider than 256
struct PagedData {
  const float *q, *k, *v, *bias;
  const int64_t *slots, *page_tables;
  char *k_pages, *v_pages;
  uint16_t *k_scales, *v_scales;
  float* o;
  int64_t table_width;
  const PagedItem* items;
  int64_t item_count;
  const int64_t* joined;  // the first items of those that are parts
  int64_t joined_count;
};

// Weights of bf16 are packed in pairs along k: dot products of pairs read them as they are, and a pair is taken apart by a
// shift and a mask. k is filled up with zeros to a multiple of what a tile register holds of a row.
constexpr int64_t kPairsDepth = 32;

// How weights in blocks are packed: in panels of `width` columns side by side, two vectors' lanes. A panel has the
// scales of its blocks, [blocks, width]; the offsets likewise; and the codes, filled up with zeros to whole units of k.
// A lane is a column and holds four codes, of neighbours along k: a step. A chunk is four steps and has `bits` vectors:
// the codes' lowest four bits are in four of them, one for each step, then two bits in two, then one bit in one, of the
// powers of two that make up `bits`. From the low end of a byte stand a step's first half of the columns, its second half, and then those of the
// next step. Of eight bits there are two vectors for each step, its halves.
constexpr int64_t kChunk = 16, kUnit = 32;
struct BlocksLayout {
  int64_t width, unit, units, blocks, block;
  int64_t scale_bytes, offset_bytes, unit_bytes;  // of one element; of one unit's codes in a panel
  float middle;                                   // of the codes' range

  __attribute__((always_inline)) int64_t codes_at() const { return blocks * width * (scale_bytes + offset_bytes); }
  __attribute__((always_inline)) int64_t panel_bytes() const { return codes_at() + units * unit_bytes; }
};
// Of weights that were checked.
BlocksLayout blocks_layout(int lanes, int64_t k, const accelcpu_blocks&);

// One instruction set.
struct Kernels {
  const char* isa;
  const char* layouts[4];  // by accelcpu_format
  int panel;               // columns of B that are packed side by side
  int lanes;
  void (*pack)(Workers&, const accelcpu_pack&, const PackData&);
  void (*gemm)(Workers&, const accelcpu_gemm&, const GemmData&);
  void (*gemm_bf16)(Workers&, const accelcpu_gemm&, const GemmData&);  // of rows of bf16,
  int64_t bf16_rows;                                                   // from so many on; of fewer it is gemm
  void (*quantize_rows)(Workers&, const accelcpu_quantize_rows&, const QuantizeRowsData&);
  void (*gemm_blocks)(Workers&, const accelcpu_gemm_blocks&, const GemmBlocksData&);       // of f32
  void (*gemm_blocks_int8)(Workers&, const accelcpu_gemm_blocks&, const GemmBlocksData&);  // of rows that are quantized
  void (*matmul)(Workers&, const accelcpu_matmul&, const MatMulData&);
  void (*attention)(Workers&, const accelcpu_attention&, const AttentionData&);
  void (*norm)(Workers&, const accelcpu_norm&, const NormData&);
  void (*softmax)(Workers&, const accelcpu_softmax&, const SoftmaxData&);
  void (*map)(Workers&, const accelcpu_map&, const MapData&);
  void (*embed)(Workers&, const accelcpu_embed&, const EmbedData&);
  void (*reduce)(Workers&, const accelcpu_reduce&, const ReduceData&);
  void (*conv)(Workers&, const accelcpu_conv&, const ConvData&);
  void (*pool)(Workers&, const accelcpu_pool&, const PoolData&);
  void (*resample)(Workers&, const accelcpu_resample&, const ResampleData&);
  void (*groupnorm)(Workers&, const accelcpu_groupnorm&, const GroupNormData&);
  void (*paged)(Workers&, const accelcpu_paged&, const PagedData&);
  void (*rope)(Workers&, const accelcpu_rope&, const RopeData&);
};

extern const Kernels kernels_baseline, kernels_avx2, kernels_avx512, kernels_neon, kernels_wide16_test;

// An instruction set that adds products of bytes to another, whose kernels and layouts it has otherwise.
struct Int8Kernels {
  bool (*right)();  // computes a few, and says whether they are right; null: no doubt
  void (*quantize_rows)(Workers&, const accelcpu_quantize_rows&, const QuantizeRowsData&);
  void (*gemm_blocks_int8)(Workers&, const accelcpu_gemm_blocks&, const GemmBlocksData&);
};
extern const Int8Kernels kernels_avx512vnni, kernels_amx, kernels_amx_test;

// And one that adds products of bf16.
struct Bf16Kernels {
  bool (*right)();
  int64_t rows;  // Kernels::bf16_rows
  void (*gemm_bf16)(Workers&, const accelcpu_gemm&, const GemmData&);
};
extern const Bf16Kernels kernels_avx512bf16, kernels_avx512bf16_test, kernels_amx_bf16, kernels_amx_test_bf16;

// Memory movers, the same for every instruction set.
void copy(Workers&, const accelcpu_copy&, const CopyData&);
void gather(Workers&, const accelcpu_gather&, const GatherData&);
void cast(Workers&, const accelcpu_cast&, const void* src, void* dst);
void gridsample(Workers&, const accelcpu_gridsample&, const GridSampleData&);

void gather_blocks(Workers&, const accelcpu_gather_blocks&, const GatherBlocksData&);
void pack_blocks(Workers&, int lanes, int panel, const accelcpu_pack_blocks&, const PackBlocksData&);

// Bytes of an element; 0 for a type that there is no code for.
int dtype_bytes(uint32_t dtype);
// dst[i] = src[i] for dense runs, by the rules of accelcpu_cast.
void convert(const void* src, uint32_t src_type, void* dst, uint32_t dst_type, int64_t n);

}  // namespace accelcpu
#endif
