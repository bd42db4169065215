// The C interface: every call catches, answers a status, and keeps the text for `hc_error`.

#include <memory>
#include <new>
#include <string>
#include <vector>

#include "choose.hpp"
#include "error.hpp"
#include "formats.hpp"
#include "histrio_cpu.h"
#include "linear.hpp"
#include "pool.hpp"
#include "self_test.hpp"
#include "stage.hpp"

struct hc_stage {
  hc::Stage stage;
};

namespace {

thread_local std::string last_error;

template <class Call> int32_t guarded(Call call) noexcept {
  try {
    last_error.clear();
    call();
    return HC_OK;
  } catch (const hc::Error &error) {
    last_error = error.what();
    return error.status;
  } catch (const std::bad_alloc &) {
    last_error = "out of memory";
    return HC_NO_MEMORY;
  } catch (const std::exception &error) {
    last_error = error.what();
    return HC_BAD_ARGUMENT;
  }
}

template <class Struct> void check_size(const Struct *given) {
  hc::require(given != nullptr && given->struct_bytes == sizeof(Struct), "a struct has another size: library and caller are of different versions");
}

} // namespace

extern "C" {

int32_t hc_abi(void) { return HC_ABI; }
const char *hc_error(void) { return last_error.c_str(); }
const char *hc_kernels(void) { return hc::kernels_in_use().name; }
const char *hc_kernels_available(void) { return hc::names_of_kernels().c_str(); }
int32_t hc_use_kernels(const char *name) {
  return guarded([&] { hc::use_kernels(name); });
}

int32_t hc_use_threads(int32_t count) {
  return guarded([&] {
    hc::require(count >= 1 && count <= 1024, "threads must be from 1 to 1024");
    hc::Pool::instance().resize(count);
  });
}

int32_t hc_use_nodes(int32_t count, int32_t num_nodes, const int32_t *node_of, int32_t num_processors) {
  return guarded([&] {
    hc::require(num_nodes >= 1 && num_nodes <= hc::Pool::kMostLanes, "nodes must be from 1 to " + std::to_string(hc::Pool::kMostLanes));
    hc::require(count >= 1 && count <= 1024, "threads must be from 1 to 1024");
    std::vector<std::vector<int>> nodes;
    nodes.resize(std::size_t(num_nodes));
    for (int processor = 0; processor < num_processors; ++processor)
      if (node_of[processor] >= 0 && node_of[processor] < num_nodes) nodes[std::size_t(node_of[processor])].push_back(processor);
    hc::Pool::instance().resize(count, nodes);
  });
}

int32_t hc_self_test(void) {
  return guarded([] { hc::self_test(hc::kernels_in_use()); });
}

int32_t hc_stage_new(const hc_stage_config *config, hc_stage **stage) {
  return guarded([&] {
    check_size(config);
    *stage = new hc_stage{hc::Stage(*config, hc::kernels_in_use())};
  });
}

void hc_stage_free(hc_stage *stage) { delete stage; }

int32_t hc_layer(hc_stage *stage, int32_t layer, const hc_layer_config *config) {
  return guarded([&] {
    check_size(config);
    stage->stage.set_layer(layer, *config);
  });
}

int32_t hc_rope(hc_stage *stage, int32_t table, const float *inverse_frequencies, int32_t count, float scale) {
  return guarded([&] { stage->stage.set_rope(table, inverse_frequencies, count, scale); });
}

int32_t hc_put(hc_stage *stage, int32_t layer, int32_t tensor, int32_t expert, int32_t format, int32_t storage, int64_t rows, int64_t columns,
               const void *data) {
  return guarded([&] { stage->stage.put(layer, tensor, expert, format, storage, rows, columns, static_cast<const std::byte *>(data)); });
}

const void *hc_packed(hc_stage *stage, int32_t layer, int32_t tensor, int32_t expert) {
  const void *panels = nullptr;
  guarded([&] { panels = stage->stage.packed(layer, tensor, expert); });
  return panels;
}

int64_t hc_packed_bytes(int32_t format, int32_t storage, int64_t rows, int64_t columns) {
  int64_t bytes = 0;
  guarded([&] {
    if (rows > 0 && rows <= INT32_MAX && columns <= INT32_MAX && hc::row_bytes(format, columns) != 0)
      bytes = int64_t(hc::shape_of(format, storage, int(rows), int(columns), false).num_bytes);
  });
  return bytes;
}

int32_t hc_ready(hc_stage *stage) {
  return guarded([&] { stage->stage.ready(); });
}

int64_t hc_weight_bytes(const hc_stage *stage) { return stage->stage.weight_bytes(); }
int64_t hc_kv_bytes_per_token(const hc_stage *stage) { return stage->stage.kv_bytes_per_token(); }

int32_t hc_allocate(hc_stage *stage, int32_t num_blocks, int32_t block_size) {
  return guarded([&] { stage->stage.allocate(num_blocks, block_size); });
}

int32_t hc_copy_blocks(hc_stage *stage, int32_t count, const int32_t *from, const int32_t *to) {
  return guarded([&] { stage->stage.copy_blocks(count, from, to); });
}

int32_t hc_step(hc_stage *stage, const hc_batch *batch) {
  return guarded([&] {
    check_size(batch);
    stage->stage.step(*batch);
  });
}

int32_t hc_dequantize(int32_t format, int64_t count, const void *data, float *values) {
  return guarded([&] {
    if (hc::row_bytes(format, count) == 0 && count != 0) throw hc::Error(HC_UNSUPPORTED, "the format is unknown, or the count is no whole number of its blocks");
    hc::dequantize(format, count, static_cast<const std::byte *>(data), values);
  });
}

} // extern "C"
