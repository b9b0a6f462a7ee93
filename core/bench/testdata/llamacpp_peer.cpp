// llama.cpp as a peer, through its C interface, in a process of its own.
//
//   llamacpp-peer MODEL.gguf THREADS CONTEXT SEQUENCES
//
// Once the model is loaded a line says version and processor variant. CONTEXT is of each sequence, in
// tokens. Then each line on standard input is a command, answered by a line:
//
//   clear            forget all sequences                         0
//   prefill S ID...  tokens after what sequence S holds           seconds, likeliest next token
//   step ID...       a token for each of the first n sequences    seconds, likeliest next token of each
//   logits S ID...   of these tokens, after sequence S's last     the logits
//
// Seconds are those until the logits are there. The library comes without headers: what is used of it
// is declared here, as version 0.5.0 has it, and held against the defaults that it gives.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

extern "C" {
struct llama_model;
struct llama_context;
struct llama_vocab;
struct llama_memory_i;

struct llama_model_params {
  void *devices, *overrides;
  int32_t gpu_layers, split_mode;
  int32_t modes[4];
  void *tensor_split, *progress, *progress_data, *kv_overrides;
  bool vocab_only, check_tensors, extra_buffers, no_host, no_alloc, more;
};

struct llama_context_params {
  uint32_t n_ctx, n_batch, n_ubatch, n_seq_max, n_rs_seq, n_outputs_max, unnamed;
  int32_t n_threads, n_threads_batch;
  int32_t context_type, rope_scaling, pooling, attention, flash_attention;
  float rope[6];
  uint32_t yarn_context;
  float defrag;
  void *eval, *eval_data;
  int32_t type_k, type_v;
  void *abort, *abort_data;
  bool embeddings, offload_kqv, no_perf, op_offload, swa_full, kv_unified;
  void *samplers;
  size_t n_samplers;
  void *other;
};

struct llama_batch {
  int32_t n_tokens;
  int32_t *token;
  float *embd;
  int32_t *pos, *n_seq_id;
  int32_t **seq_id;
  int8_t *logits;
};

void ggml_backend_load_all_from_path(const char *);
void llama_log_set(void (*)(int, const char *, void *), void *);
void llama_backend_init(void);
const char *llama_version(void);
llama_model_params llama_model_default_params(void);
llama_context_params llama_context_default_params(void);
llama_model *llama_model_load_from_file(const char *, llama_model_params);
llama_context *llama_init_from_model(llama_model *, llama_context_params);
const llama_vocab *llama_model_get_vocab(const llama_model *);
int32_t llama_vocab_n_tokens(const llama_vocab *);
llama_memory_i *llama_get_memory(const llama_context *);
void llama_memory_clear(llama_memory_i *, bool);
int32_t llama_decode(llama_context *, llama_batch);
float *llama_get_logits_ith(llama_context *, int32_t);
}

static_assert(sizeof(llama_model_params) == 80 && sizeof(llama_context_params) == 160 && sizeof(llama_batch) == 56, "the library's layout");

[[noreturn]] static void fail(const std::string &why) {
  std::cerr << "llamacpp-peer: " << why << std::endl;
  exit(1);
}

static std::string folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void *>(&llama_backend_init), &info)) fail("where the library is can't be told");
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/'));
}

// variant is the library for this processor that was loaded.
static std::string variant() {
  std::ifstream maps("/proc/self/maps");
  const std::string mark = "libggml-cpu-";
  for (std::string line; std::getline(maps, line);)
    if (auto at = line.find(mark); at != std::string::npos) {
      line = line.substr(at + mark.size());
      return line.substr(0, line.find('.'));
    }
  fail("no variant for this processor was loaded");
}

struct Peer {
  llama_context *context;
  int32_t vocabulary;
  uint32_t batch;
  std::vector<int32_t> held;                // tokens of each sequence
  std::vector<std::vector<float>> last;     // logits after each sequence

  struct Token {
    int32_t id, sequence;
    bool wanted;
  };

  // decode runs tokens and keeps the logits that are wanted; it returns the seconds that it took.
  double decode(std::vector<Token> tokens) {
    std::vector<int32_t> id, position, one(tokens.size(), 1), sequence;
    std::vector<int32_t *> sequences;
    std::vector<int8_t> wanted;
    for (const Token &t : tokens) {
      id.push_back(t.id);
      position.push_back(held[t.sequence]++);
      sequence.push_back(t.sequence);
      wanted.push_back(t.wanted);
    }
    for (int32_t &s : sequence) sequences.push_back(&s);
    double seconds = 0;
    for (size_t begin = 0; begin < tokens.size(); begin += batch) {
      const size_t n = std::min<size_t>(batch, tokens.size() - begin);
      llama_batch b{int32_t(n), &id[begin], nullptr, &position[begin], &one[begin], &sequences[begin], &wanted[begin]};
      const auto start = std::chrono::steady_clock::now();
      if (const int32_t status = llama_decode(context, b)) fail("llama_decode answered " + std::to_string(status));
      std::vector<float *> rows;
      for (size_t i = 0; i < n; i++)
        if (wanted[begin + i]) rows.push_back(llama_get_logits_ith(context, int32_t(i))); // waits for them
      seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      for (size_t i = 0, row = 0; i < n; i++)
        if (wanted[begin + i]) last[sequence[begin + i]].assign(rows[row], rows[row] + vocabulary), row++;
    }
    return seconds;
  }

  int32_t likeliest(int32_t sequence) const {
    const auto &l = last[sequence];
    int32_t best = 0;
    for (int32_t i = 1; i < vocabulary; i++)
      if (l[i] > l[best]) best = i;
    return best;
  }

  // ids reads what is left of a command: tokens.
  std::vector<int32_t> ids(std::istringstream &in) const {
    std::vector<int32_t> out;
    for (int32_t id; in >> id; out.push_back(id))
      if (id < 0 || id >= vocabulary) fail("there is no token " + std::to_string(id));
    if (!in.eof() || out.empty()) fail("tokens were expected");
    return out;
  }

  int32_t sequence(std::istringstream &in) const {
    int32_t s;
    if (!(in >> s) || s < 0 || size_t(s) >= held.size()) fail("a sequence was expected");
    return s;
  }

  void answer(const std::string &line) {
    std::istringstream in(line);
    std::string command;
    in >> command;
    if (command == "clear") {
      llama_memory_clear(llama_get_memory(context), false);
      std::fill(held.begin(), held.end(), 0);
      for (auto &l : last) l.clear();
      printf("0\n");
    } else if (command == "prefill") {
      const int32_t s = sequence(in);
      std::vector<Token> tokens;
      for (int32_t id : ids(in)) tokens.push_back({id, s, false});
      tokens.back().wanted = true;
      const double seconds = decode(tokens);
      printf("%.9f %d\n", seconds, likeliest(s));
    } else if (command == "step") {
      std::vector<Token> tokens;
      for (int32_t id : ids(in)) tokens.push_back({id, int32_t(tokens.size()), true});
      if (tokens.size() > held.size()) fail("more tokens than sequences");
      printf("%.9f", decode(tokens));
      for (size_t s = 0; s < tokens.size(); s++) printf(" %d", likeliest(int32_t(s)));
      printf("\n");
    } else if (command == "logits") {
      const int32_t s = sequence(in);
      if (last[s].empty()) fail("the sequence is empty");
      for (int32_t id : ids(in)) printf("%.9g ", last[s][id]);
      printf("\n");
    } else {
      fail("there is no command " + command);
    }
    fflush(stdout);
  }
};

int main(int argc, char **argv) {
  if (argc != 5) fail("usage: llamacpp-peer MODEL.gguf THREADS CONTEXT SEQUENCES");
  const int threads = atoi(argv[2]), length = atoi(argv[3]), sequences = atoi(argv[4]);
  if (threads < 1 || length < 1 || sequences < 1) fail("threads, context and sequences must be positive");
  llama_log_set([](int level, const char *text, void *) { if (level == 4) fputs(text, stderr); }, nullptr);
  llama_model_params m = llama_model_default_params();
  llama_context_params c = llama_context_default_params();
  if (m.gpu_layers != -1 || m.split_mode != 1 || m.vocab_only || !m.extra_buffers || c.n_ctx != 512 || c.n_batch != 2048 || c.n_ubatch != 512 ||
      c.n_seq_max != 1 || c.n_threads != 4 || c.n_threads_batch != 4 || c.flash_attention != -1 || c.defrag != -1 || c.type_k != 1 || c.type_v != 1 || c.kv_unified)
    fail(std::string("version ") + llama_version() + " has other defaults than 0.5.0: declare its structures anew");
  ggml_backend_load_all_from_path(folder().c_str());
  llama_backend_init();
  llama_model *model = llama_model_load_from_file(argv[1], m);
  if (!model) fail(std::string("can't load ") + argv[1]);
  c.n_ctx = uint32_t(length) * uint32_t(sequences);
  c.n_seq_max = uint32_t(sequences);
  c.n_threads = c.n_threads_batch = threads;
  llama_context *context = llama_init_from_model(model, c);
  if (!context) fail("can't make a context");
  Peer p{context, llama_vocab_n_tokens(llama_model_get_vocab(model)), c.n_batch, std::vector<int32_t>(sequences), std::vector<std::vector<float>>(sequences)};
  printf("llama.cpp %s (%s)\n", llama_version(), variant().c_str());
  fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) p.answer(line);
}
