// @ID@: a cart is pushed left or right so that the pole on it stays up.
//
// Barto, Sutton and Anderson 1983, "Neuronlike adaptive elements that can solve difficult learning control problems".
#include <myriad/env.hpp>

struct @CLASS @{static constexpr const char* id = "@ID@";
static constexpr int max_episode_steps = 500;
static constexpr size_t num_state = 4;

static myriad::Space observation_space(const myriad::Options&) {
  return myriad::Space::box(-myriad::infinity, myriad::infinity, {4});
}
static myriad::Space action_space(const myriad::Options&) { return myriad::Space::discrete(2); }
static std::vector<myriad::Option> options() { return {{"force", 10.0}}; }  // N

explicit @CLASS @(const myriad::Options& options) : force(options["force"]) {}

void reset(myriad::Random& random, float* observation) {
  for (double& value : s) value = random.uniform(-0.05, 0.05);
  observe(observation);
}
myriad::Step step(const int32_t* action, myriad::Random&, float* observation) {
  const double push = action[0] == 1 ? force : -force, sin = std::sin(s[2]), cos = std::cos(s[2]);
  const double centripetal = (push + 0.05 * s[3] * s[3] * sin) / 1.1;  // 0.05 = pole mass x half length
  const double theta_acc = (9.8 * sin - cos * centripetal) / (0.5 * (4.0 / 3.0 - 0.1 * cos * cos / 1.1));
  const double x_acc = centripetal - 0.05 * theta_acc * cos / 1.1;
  const double derivative[4] = {s[1], x_acc, s[3], theta_acc};
  for (int i = 0; i < 4; ++i) s[i] += 0.02 * derivative[i];  // s a step
  observe(observation);
  return {1.0, std::abs(s[0]) > 2.4 || std::abs(s[2]) > 0.20943951};  // m, rad
}
void save(double* state) const {
  for (int i = 0; i < 4; ++i) state[i] = s[i];
}
void load(const double* state, float* observation) {
  for (int i = 0; i < 4; ++i) s[i] = state[i];
  observe(observation);
}
void observe(float* observation) const {
  for (int i = 0; i < 4; ++i) observation[i] = static_cast<float>(s[i]);
}

double force, s[4] = {};  // x, x', theta, theta'
}
;
MYRIAD_ENVIRONMENT(@CLASS @)
