// accelcpu_layout: the structs' offsets, as this compiler laid them out.
#include <cstddef>
#include <cstring>

#include "../include/accelcpu.h"

namespace {

struct Field {
  const char *type, *name;
  int64_t offset;
};

#define SIZE(type) {#type, nullptr, sizeof(accelcpu_##type)}
#define AT(type, field) {#type, #field, offsetof(accelcpu_##type, field)}

const Field kFields[] = {
    SIZE(ref), AT(ref, buffer), AT(ref, offset),
    SIZE(buffer), AT(buffer, data), AT(buffer, bytes),
    SIZE(config), AT(config, isa), AT(config, threads), AT(config, pin), AT(config, spin_us),
    SIZE(result), AT(result, code), AT(result, op), AT(result, value), AT(result, limit), AT(result, text),
    SIZE(run_args), AT(run_args, program), AT(run_args, program_bytes), AT(run_args, buffers), AT(run_args, buffer_count),
    AT(run_args, cancel), AT(run_args, op_ns), AT(run_args, op_ns_count),
    SIZE(pack), AT(pack, op), AT(pack, src), AT(pack, dst), AT(pack, n), AT(pack, k), AT(pack, n_stride), AT(pack, k_stride), AT(pack, format),
    SIZE(gemm), AT(gemm, op), AT(gemm, a), AT(gemm, b), AT(gemm, bias), AT(gemm, residual), AT(gemm, c), AT(gemm, m), AT(gemm, n), AT(gemm, k),
    AT(gemm, lda), AT(gemm, ldc), AT(gemm, ldr), AT(gemm, alpha), AT(gemm, activation), AT(gemm, format), AT(gemm, a_type),
    SIZE(blocks), AT(blocks, bits), AT(blocks, block), AT(blocks, scales), AT(blocks, offsets),
    SIZE(pack_blocks), AT(pack_blocks, op), AT(pack_blocks, codes), AT(pack_blocks, scales), AT(pack_blocks, offsets), AT(pack_blocks, dst),
    AT(pack_blocks, n), AT(pack_blocks, k), AT(pack_blocks, codes_stride), AT(pack_blocks, weight),
    SIZE(quantize_rows), AT(quantize_rows, op), AT(quantize_rows, x), AT(quantize_rows, q), AT(quantize_rows, rows), AT(quantize_rows, k),
    AT(quantize_rows, ldx), AT(quantize_rows, unit),
    SIZE(gemm_blocks), AT(gemm_blocks, op), AT(gemm_blocks, a), AT(gemm_blocks, b), AT(gemm_blocks, bias), AT(gemm_blocks, residual),
    AT(gemm_blocks, c), AT(gemm_blocks, m), AT(gemm_blocks, n), AT(gemm_blocks, k), AT(gemm_blocks, lda), AT(gemm_blocks, ldc),
    AT(gemm_blocks, ldr), AT(gemm_blocks, weight), AT(gemm_blocks, activation), AT(gemm_blocks, quantized),
    SIZE(gather_blocks), AT(gather_blocks, op), AT(gather_blocks, codes), AT(gather_blocks, scales), AT(gather_blocks, offsets),
    AT(gather_blocks, index), AT(gather_blocks, y), AT(gather_blocks, n), AT(gather_blocks, k), AT(gather_blocks, codes_stride),
    AT(gather_blocks, count), AT(gather_blocks, weight), AT(gather_blocks, index_type),
    SIZE(matmul), AT(matmul, op), AT(matmul, a), AT(matmul, b), AT(matmul, bias), AT(matmul, c), AT(matmul, m), AT(matmul, n), AT(matmul, k),
    AT(matmul, a_row), AT(matmul, a_col), AT(matmul, b_row), AT(matmul, b_col), AT(matmul, c_row), AT(matmul, batch), AT(matmul, a_batch),
    AT(matmul, b_batch), AT(matmul, c_batch), AT(matmul, rank), AT(matmul, alpha), AT(matmul, activation),
    SIZE(attention), AT(attention, op), AT(attention, q), AT(attention, k), AT(attention, v), AT(attention, mask), AT(attention, kv_lengths),
    AT(attention, o), AT(attention, batch), AT(attention, heads), AT(attention, kv_heads), AT(attention, q_len), AT(attention, kv_len),
    AT(attention, head_dim), AT(attention, v_dim), AT(attention, q_stride), AT(attention, k_stride), AT(attention, v_stride),
    AT(attention, o_stride), AT(attention, mask_stride), AT(attention, offset), AT(attention, window), AT(attention, scale),
    AT(attention, softcap), AT(attention, mask_kind), AT(attention, causal),
    SIZE(norm), AT(norm, op), AT(norm, x), AT(norm, residual), AT(norm, gamma), AT(norm, beta), AT(norm, sum), AT(norm, y), AT(norm, rows),
    AT(norm, cols), AT(norm, ldx), AT(norm, ldr), AT(norm, lds), AT(norm, ldy), AT(norm, eps), AT(norm, norm),
    SIZE(softmax), AT(softmax, op), AT(softmax, x), AT(softmax, y), AT(softmax, outer), AT(softmax, axis), AT(softmax, inner), AT(softmax, log),
    SIZE(step), AT(step, fn), AT(step, a), AT(step, b), AT(step, c), AT(step, imm),
    SIZE(map_operand), AT(map_operand, data), AT(map_operand, dtype), AT(map_operand, stride),
    SIZE(map), AT(map, op), AT(map, compute), AT(map, rank), AT(map, inputs), AT(map, steps), AT(map, dims), AT(map, out), AT(map, in), AT(map, step),
    SIZE(cast), AT(cast, op), AT(cast, src), AT(cast, dst), AT(cast, n), AT(cast, src_type), AT(cast, dst_type),
    SIZE(copy), AT(copy, op), AT(copy, src), AT(copy, dst), AT(copy, rank), AT(copy, elem_bytes), AT(copy, dims), AT(copy, src_stride), AT(copy, dst_stride),
    SIZE(gather), AT(gather, op), AT(gather, data), AT(gather, index), AT(gather, y), AT(gather, outer), AT(gather, axis), AT(gather, inner),
    AT(gather, count), AT(gather, index_type),
    SIZE(embed), AT(embed, op), AT(embed, table), AT(embed, ids), AT(embed, gamma), AT(embed, beta), AT(embed, y), AT(embed, table_rows),
    AT(embed, period), AT(embed, count), AT(embed, width), AT(embed, ldy), AT(embed, tables), AT(embed, ids_type), AT(embed, eps), AT(embed, norm),
    SIZE(reduce), AT(reduce, op), AT(reduce, x), AT(reduce, weight), AT(reduce, y), AT(reduce, outer), AT(reduce, axis), AT(reduce, inner),
    AT(reduce, reduce), AT(reduce, eps),
    SIZE(conv), AT(conv, op), AT(conv, x), AT(conv, w), AT(conv, bias), AT(conv, residual), AT(conv, y), AT(conv, batch), AT(conv, groups),
    AT(conv, channels), AT(conv, filters), AT(conv, in), AT(conv, kernel), AT(conv, out), AT(conv, stride), AT(conv, dilation), AT(conv, pad),
    AT(conv, y_stride), AT(conv, act_a), AT(conv, act_b), AT(conv, activation), AT(conv, residual_last), AT(conv, format),
    SIZE(pool), AT(pool, op), AT(pool, x), AT(pool, y), AT(pool, planes), AT(pool, in), AT(pool, kernel), AT(pool, out), AT(pool, stride),
    AT(pool, dilation), AT(pool, pad), AT(pool, pad_end), AT(pool, pool),
    SIZE(resample), AT(resample, op), AT(resample, x), AT(resample, index), AT(resample, weight), AT(resample, y), AT(resample, outer),
    AT(resample, in), AT(resample, out), AT(resample, inner), AT(resample, taps),
    SIZE(groupnorm), AT(groupnorm, op), AT(groupnorm, x), AT(groupnorm, scale), AT(groupnorm, bias), AT(groupnorm, y), AT(groupnorm, batch),
    AT(groupnorm, groups), AT(groupnorm, channels), AT(groupnorm, inner), AT(groupnorm, eps), AT(groupnorm, activation),
    SIZE(gridsample), AT(gridsample, op), AT(gridsample, x), AT(gridsample, grid), AT(gridsample, y), AT(gridsample, batch), AT(gridsample, channels),
    AT(gridsample, points), AT(gridsample, in), AT(gridsample, rank), AT(gridsample, mode), AT(gridsample, padding), AT(gridsample, align_corners),
    SIZE(rope), AT(rope, op), AT(rope, x), AT(rope, cos), AT(rope, sin), AT(rope, positions), AT(rope, y), AT(rope, batch), AT(rope, tokens),
    AT(rope, heads), AT(rope, dim), AT(rope, half), AT(rope, rows), AT(rope, x_stride), AT(rope, y_stride), AT(rope, interleaved),
    SIZE(paged), AT(paged, op), AT(paged, q), AT(paged, k), AT(paged, v), AT(paged, k_pages), AT(paged, v_pages), AT(paged, slots),
    AT(paged, page_tables), AT(paged, lengths), AT(paged, starts), AT(paged, k_scales), AT(paged, v_scales), AT(paged, bias), AT(paged, o),
    AT(paged, tokens), AT(paged, heads), AT(paged, kv_heads), AT(paged, head_dim), AT(paged, v_dim), AT(paged, page_size), AT(paged, ldq),
    AT(paged, ldk), AT(paged, ldv), AT(paged, pages), AT(paged, sequences), AT(paged, table_width), AT(paged, window),
    AT(paged, bias_columns), AT(paged, scale), AT(paged, softcap), AT(paged, k_type), AT(paged, v_type), AT(paged, causal),
};

}  // namespace

extern "C" int64_t accelcpu_layout(const char* type, const char* field) {
  if (!type) return -1;
  for (const Field& f : kFields) {
    if (std::strcmp(f.type, type) != 0) continue;
    if (field ? f.name && std::strcmp(f.name, field) == 0 : !f.name) return f.offset;
  }
  return -1;
}
