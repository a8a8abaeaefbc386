#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "bound_class.h"
#include "define.h"
#include "engine_docs.h"
#include "gil.h"
#include "numpy_view.h"
#include "operator_call.h"
#include "quire/engine/engine.h"
#include "quire/model/load_model.h"
#include "token_ids.h"

namespace quire::python {
namespace {

namespace py = pybind11;

std::shared_ptr<Engine> new_engine(py::handle model, py::handle num_blocks, py::handle dtype,
                                   py::handle block_size, py::handle prefix_cache,
                                   py::handle max_batch_tokens, py::handle max_sequences,
                                   py::handle draft, py::handle num_threads) {
  constexpr const char* function = "Engine";
  std::shared_ptr<const Model> shared = object_of<LoadedModel>({function, "model"}, model);
  EngineOptions options;
  options.num_blocks = to_optional_int({function, "num_blocks"}, num_blocks);
  options.dtype = to_dtype({function, "dtype"}, dtype);
  options.block_size = to_int({function, "block_size"}, block_size);
  options.prefix_cache = to_bool({function, "prefix_cache"}, prefix_cache);
  options.max_batch_tokens = to_int({function, "max_batch_tokens"}, max_batch_tokens);
  options.max_sequences = to_int({function, "max_sequences"}, max_sequences);
  options.draft = to_string({function, "draft"}, draft);
  options.num_threads = to_execution(function, num_threads).num_threads;
  // Under the GIL, as it reads the environment.
  return std::make_shared<Engine>(std::move(shared), options);
}

std::shared_ptr<Request> submit(Engine& engine, py::handle prompt_ids, py::handle max_tokens,
                                py::handle temperature, py::handle top_k, py::handle top_p,
                                py::handle min_p, py::handle repetition_penalty,
                                py::handle presence_penalty, py::handle frequency_penalty,
                                py::handle stop_token_ids, py::handle ignore_eos, py::handle seed,
                                py::handle logprobs, py::handle space) {
  constexpr const char* function = "Engine.submit";
  std::vector<std::int64_t> ids = to_token_ids({function, "prompt"}, prompt_ids);
  RequestOptions options;
  SampleOptions& choice = options.choice;
  options.max_tokens = to_int({function, "max_tokens"}, max_tokens);
  choice.temperature = to_double({function, "temperature"}, temperature);
  choice.top_k = to_int({function, "top_k"}, top_k);
  choice.top_p = to_double({function, "top_p"}, top_p);
  choice.min_p = to_double({function, "min_p"}, min_p);
  choice.repetition_penalty = to_double({function, "repetition_penalty"}, repetition_penalty);
  choice.presence_penalty = to_double({function, "presence_penalty"}, presence_penalty);
  choice.frequency_penalty = to_double({function, "frequency_penalty"}, frequency_penalty);
  choice.seed = to_int({function, "seed"}, seed);
  options.stop_token_ids = to_token_ids({function, "stop"}, stop_token_ids);
  options.ignore_eos = to_bool({function, "ignore_eos"}, ignore_eos);
  options.logprobs = to_int({function, "logprobs"}, logprobs);
  options.cache_space = to_string({function, "namespace"}, space);
  const WithoutGil unlocked;
  return engine.submit(std::move(ids), std::move(options));
}

py::list step(Engine& engine) {
  std::vector<std::shared_ptr<Request>> requests;
  {
    const WithoutGil unlocked;
    requests = engine.step();
  }
  py::list list;
  for (std::shared_ptr<Request>& request : requests) list.append(py::cast(std::move(request)));
  return list;
}

py::dict stats(const Engine& engine) {
  EngineStats stats;
  {
    const WithoutGil unlocked;
    stats = engine.stats();
  }
  py::dict dict;
  dict["waiting"] = stats.waiting;
  dict["running"] = stats.running;
  dict["finished"] = stats.finished;
  dict["prompt_tokens"] = stats.prompt_tokens;
  dict["cached_tokens"] = stats.cached_tokens;
  dict["computed_tokens"] = stats.computed_tokens;
  dict["generated_tokens"] = stats.generated_tokens;
  dict["preemptions"] = stats.preemptions;
  dict["tokens_to_recompute"] = stats.tokens_to_recompute;
  dict["steps"] = stats.steps;
  dict["failed_steps"] = stats.failed_steps;
  dict["schedule_seconds"] = stats.schedule_seconds;
  dict["forward_seconds"] = stats.forward_seconds;
  dict["choose_seconds"] = stats.choose_seconds;
  dict["settle_seconds"] = stats.settle_seconds;
  dict["max_sequences"] = stats.max_sequences;
  dict["state_bytes"] = stats.state_bytes;
  dict["num_blocks_reason"] = stats.num_blocks_reason;
  dict["prefix_cache_reason"] = stats.prefix_cache_reason;
  dict["pool"] = stats.pool;
  dict["prefix_cache"] = stats.prefix_cache;
  return dict;
}

py::list list_of(const std::vector<std::int64_t>& ids) {
  py::list list(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) list[i] = py::int_(ids[i]);
  return list;
}

// Of each token, (its logarithm, [(id, logarithm), ...]).
py::list logprobs(const Request& request) {
  py::list list;
  for (const TokenLogprobs& token : request.logprobs()) {
    py::list top;
    for (const auto& [id, logprob] : token.top) top.append(py::make_tuple(id, logprob));
    list.append(py::make_tuple(token.chosen, top));
  }
  return list;
}

py::list token_ids(const Request& request, py::handle first) {
  return list_of(request.token_ids(to_int({"Request.token_ids", "first"}, first)));
}

void stop(Request& request, py::handle num_tokens) {
  request.stop(to_optional_int({"Request.stop", "num_tokens"}, num_tokens));
}

py::object finish_reason(const Request& request) {
  const FinishReason reason = request.finish_reason();
  return reason == FinishReason::none ? py::object(py::none()) : py::str(name_of(reason));
}

void bind_request(py::module_& m) {
  auto request =
      bind_class<Request, std::shared_ptr<Request>>(m, "TokenRequest", docs::kTokenRequest);
  def_method(request, "TokenRequest.token_ids", &token_ids, docs::kTokenIds, py::arg("first") = 0);
  def_method(request, "TokenRequest.cancel", &Request::cancel, docs::kCancel);
  def_method(request, "TokenRequest.stop", &stop, docs::kStop, py::arg("num_tokens") = py::none());
  request.def_property_readonly("id", &Request::id, "Counts requests of an engine from 0.")
      .def_property_readonly(
          "prompt_ids", [](const Request& self) { return list_of(self.prompt_ids()); },
          "The tokens of the prompt, a list.")
      .def_property_readonly("num_generated", &Request::num_generated, "Tokens of the answer.")
      .def_property_readonly("logprobs", &logprobs, docs::kLogprobs)
      .def_property_readonly("num_cached_tokens", &Request::num_cached_tokens,
                             "Tokens of the prompt that were found in the prefix cache.")
      .def_property_readonly("finish_reason", &finish_reason,
                             "None, \"stop\", \"length\" or \"cancelled\".")
      .def("__repr__", [](const Request& self) {
        const std::string_view reason = name_of(self.finish_reason());
        return concat("TokenRequest(", self.id(), ", ", counted(self.num_generated(), "token"),
                      " generated, ", reason.empty() ? "under way" : reason, ")");
      });
}

}  // namespace

void bind_engine(py::module_& m) {
  bind_request(m);
  auto engine = bind_class<Engine, std::shared_ptr<Engine>>(m, "TokenEngine", docs::kTokenEngine);
  def_init(engine, "TokenEngine", &new_engine, docs::kTokenEngine, py::arg("model"), py::kw_only(),
           py::arg("num_blocks") = py::none(), py::arg("dtype") = "bfloat16",
           py::arg("block_size") = 16, py::arg("prefix_cache") = true,
           py::arg("max_batch_tokens") = 512, py::arg("max_sequences") = 256,
           py::arg("draft") = "none", py::arg("num_threads") = py::none());
  def_method(engine, "TokenEngine.submit", &submit, docs::kEngineSubmit, py::arg("prompt_ids"),
             py::kw_only(), py::arg("max_tokens") = 128, py::arg("temperature") = 0.0,
             py::arg("top_k") = 0, py::arg("top_p") = 1.0, py::arg("min_p") = 0.0,
             py::arg("repetition_penalty") = 1.0, py::arg("presence_penalty") = 0.0,
             py::arg("frequency_penalty") = 0.0, py::arg("stop_token_ids") = py::tuple(),
             py::arg("ignore_eos") = false, py::arg("seed") = 0, py::arg("logprobs") = 0,
             py::arg("namespace") = "");
  def_method(engine, "TokenEngine.step", &step, docs::kEngineStep);
  def_method(engine, "TokenEngine.stats", &stats, docs::kEngineStats);
  def_method(engine, "TokenEngine.check", &Engine::check, docs::kEngineCheck,
             py::call_guard<WithoutGil>());
  engine
      .def_property_readonly("has_unfinished", &Engine::has_unfinished,
                             "Whether a step would have something to do.")
      .def("__repr__", [](const Engine& self) {
        const EngineStats stats = self.stats();
        return concat("TokenEngine(", stats.waiting, " waiting, ", stats.running, " running, ",
                      stats.finished, " finished)");
      });
}

}  // namespace quire::python
