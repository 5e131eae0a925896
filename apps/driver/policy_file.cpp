#include "apps/driver/policy_file.hpp"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <type_traits>

#include "apps/child.hpp"
#include "apps/driver/origin.hpp"
#include "apps/driver/resume.hpp"
#include "apps/driver/resume_check.hpp"
#include "apps/driver/run_directory.hpp"
#include "rl/check.hpp"
#include "rl/machine.hpp"
#include "rl/module_json.hpp"
#include "rl/plugin_build.hpp"
#include "rl/private_folder.hpp"
#include "rl/processes.hpp"
#include "rl/sandbox.hpp"
#include "rl/shared_memory.hpp"
#include "rl/wrappers.hpp"
#include "roles/checkpoint.hpp"

namespace myriad {

namespace fs = std::filesystem;

std::string best_checkpoint(const std::string& run) {
  const std::string best = run + "/best";
  if (!fs::exists(best))
    fail(Exit::usage, "no-checkpoint",
         "{} has no best checkpoint: a run has one that was trained with evaluation.evaluation_interval, or with "
         "checkpointing.checkpoint_score_attribute",
         run);
  return best;
}

namespace {

/// A policy that is trained has its network, filter and algorithm.
void refuse_meaningless(const std::vector<std::string>& overrides) {
  for (const std::string& override : overrides) {
    const std::string key = override.substr(0, override.find('='));
    if (key == "environment.observation_filter" ||
        !(key.starts_with("environment.") || key.starts_with("evaluation.") || key.starts_with("env_runners.sandbox")))
      fail(Exit::usage, "impossible",
           "{}: a policy that is trained takes settings of [environment], [evaluation] and env_runners.sandbox*, and "
           "has its filter{}",
           override, key == "seed" ? "; the seed of its episodes is --seed" : "");
  }
}

}  // namespace

SavedPolicy load_policy(const std::string& given, const std::vector<std::string>& overrides) {
  refuse_meaningless(overrides);
  const auto files = make_system_files("/");
  fs::path place = fs::absolute(given).lexically_normal();
  if (place.filename().empty()) place = place.parent_path();
  const std::string directory = checkpoint_of(*files, place);
  Config config = load_config(saved_config(directory), directory + "/config.toml", overrides);
  config.environment.env = EnvRegistry::instance().absolute(config.environment.env);
  for (std::string& wrapper : config.environment.wrappers) wrapper = absolute_plugin(wrapper);
  (void)revisit(run_of(directory), config, overrides);
  EnvSpec env = environment_spec(config);
  const std::string spec_file = directory + "/" + kModuleSpecFile, module_file = directory + "/" + kModuleFile,
                    connectors_file = directory + "/" + kConnectorsFile;
  ModuleSpec module = fs::exists(spec_file) ? module_from_json(read_file(spec_file))
                                            : make_mlp_spec(env.observation_space, env.action_space, config.rl_module);
  check_policy_fits(module, config, env, directory);
  Weights weights;
  weights.layout_hash = module.hash();
  weights.values = flat_parameters(module, decode_safetensors(files->read(module_file), module_file), module_file);
  weights.values.resize(module.num_inference_parameters());
  const TensorMap connectors = decode_safetensors(files->read(connectors_file), connectors_file);
  if (const auto filter = connectors.find("mean_std_filter"); filter != connectors.end())
    weights.filter = filter->second.f64();
  if (const auto epsilon = connectors.find("epsilon"); epsilon != connectors.end())
    weights.published = epsilon->second.f64();  // its episodes have the options of env_config
  return {fs::canonical(directory).string(), std::move(config), std::move(env), std::move(module),
          std::make_shared<const Weights>(std::move(weights))};
}

namespace {

EvaluationResult evaluate_here(const SavedPolicy& policy, const Evaluator::Options& options) {
  Evaluator evaluator(policy.config, policy.env, policy.module, policy.weights, options);
  const auto clock = make_system_clock();
  const Time until = options.max_time > Time::zero() ? clock->now() + options.max_time : Time::max();
  while (!evaluator.step_some(1) && clock->now() < until) continue;
  return evaluator.result();
}

/// What a child leaves behind; the episodes lie after it.
struct Left {
  bool done;
  Exit exit;
  size_t num_cut;
  char code[64], text[1024];
  struct Number {
    char name[128];
    uint64_t episodes;
    double mean_sum, mean_min, mean_max, last_sum;
  };
  std::array<Number, EnvStepper::kMaxNumbers> numbers;
  size_t num_numbers;
  EvaluationResult::Episode* episodes() { return reinterpret_cast<EvaluationResult::Episode*>(this + 1); }
};
static_assert(std::is_trivially_copyable_v<EvaluationResult::Episode> && sizeof(Left) % 8 == 0);

/// In `sandbox`.
void evaluate_inside(const SavedPolicy& policy, Evaluator::Options options, const Sandbox& sandbox, Left& left) {
  const auto keep = [&left](Exit exit, std::string_view code, std::string_view text) {
    left.exit = exit;
    code.copy(left.code, sizeof left.code - 1);
    text.copy(left.text, sizeof left.text - 1);
  };
  try {
    close_descriptors_but({sandbox.fd()});
    sandbox.enter();
    options.context = EnvContext::of(policy.config);
    options.context.sandbox = {};  // what it starts is inside by itself
    const EvaluationResult result = evaluate_here(policy, options);
    std::copy(result.episodes.begin(), result.episodes.end(), left.episodes());
    left.num_cut = result.num_cut;
    for (const NumberStats& number : result.numbers) {
      Left::Number& to = left.numbers.at(left.num_numbers++);
      number.name.copy(to.name, sizeof to.name - 1);
      to.episodes = number.episodes;
      to.mean_sum = number.mean_sum, to.mean_min = number.mean_min, to.mean_max = number.mean_max;
      to.last_sum = number.last_sum;
    }
  } catch (const std::exception& thrown) {
    const Error error = as_error(thrown);
    keep(error.exit_status(), error.code(), error.what() + sandbox_hint(sandbox.options(), error.what()));
  } catch (...) { keep(Exit::environment, "env-exception", "the environment threw what is no std::exception"); }
  left.done = true;
}

}  // namespace

EvaluationResult evaluate_policy(const SavedPolicy& policy, const Evaluator::Options& options) {
  if (!policy.env.isolated || options.observer != nullptr) {
    Evaluator::Options here = options;
    here.context = EnvContext::of(policy.config);
    return evaluate_here(policy, here);
  }
  EvaluationResult result;
  result.episodes.resize(static_cast<size_t>(Evaluator::whole_worlds(policy.env, options.episodes)));
  const SharedMemory memory = SharedMemory::create(
      "evaluation", sizeof(Left) + result.episodes.size() * sizeof(EvaluationResult::Episode), false);
  Left& left = *new (memory.data()) Left{};
  Sandbox::Options rules = sandbox_options(policy.config, policy.env.needs_network);
  std::optional<PrivateFolder> folder;
  if (rules.level != "off" && rules.folder().empty()) rules.temporary = folder.emplace(temporary_directory()).path();
  const Sandbox sandbox(rules);
  const pid_t parent = ::getpid(), child = ::fork();
  check(child >= 0, "fork: {}", std::strerror(errno));
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() == parent) evaluate_inside(policy, options, sandbox, left);
    ::_exit(0);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  if (status != 0) end_processes_with({fmt::format("MYRIAD_SIMULATOR={}-*", child)});
  if (!left.done)
    fail(Exit::environment, "env-crashed", "{} ended the evaluation's process: {}", policy.env.id, exit_cause(status));
  left.code[sizeof left.code - 1] = left.text[sizeof left.text - 1] = '\0';  // the child wrote what it liked
  if (left.code[0] != '\0') throw Error(left.exit, left.code, left.text);
  std::copy_n(left.episodes(), result.episodes.size(), result.episodes.begin());
  result.num_cut = left.num_cut;
  for (size_t i = 0; i < std::min(left.num_numbers, left.numbers.size()); ++i) {
    Left::Number& from = left.numbers[i];
    from.name[sizeof from.name - 1] = '\0';
    result.numbers.push_back({from.name, from.episodes, from.mean_sum, from.mean_min, from.mean_max, from.last_sum});
  }
  return result;
}

std::string endless_warning(size_t cut, size_t episodes) {
  return fmt::format(
      "warning[endless-episode] {} of {} episodes were cut after {} steps: the environment has no time "
      "limit; set environment.max_episode_steps",
      cut, episodes, Evaluator::kEndlessEpisode);
}

}  // namespace myriad
