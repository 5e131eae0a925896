/* @ID@: a cart is pushed left or right so that the pole on it stays up.
 *
 * Barto, Sutton and Anderson 1983, "Neuronlike adaptive elements that can solve difficult learning control problems". */
#include <math.h>
#include <myriad/env.h>
#include <stdio.h>
#include <stdlib.h>

struct myriad_env {
  double force;
  double s[4]; /* x, x', theta, theta' */
};

static const myriad_option options[] = {{"force", 10.0}}; /* N */

static int spaces(const double* values, myriad_space* observation, myriad_space* action, myriad_error* error) {
  static const int32_t shape[] = {4};
  static const double low[] = {-INFINITY}, high[] = {INFINITY};
  (void)values, (void)error;
  *observation = (myriad_space){.kind = MYRIAD_BOX, .dtype = MYRIAD_F32, .num_dims = 1, .num_bounds = 1, .shape = shape, .low = low, .high = high};
  *action = (myriad_space){.kind = MYRIAD_DISCRETE, .n = 2};
  return 0;
}

static myriad_env* create(const double* values, myriad_error* error) {
  myriad_env* env = calloc(1, sizeof *env);
  if (env == NULL)
    snprintf(error->text, sizeof error->text, "out of memory");
  else
    env->force = values[0];
  return env;
}

static void destroy(myriad_env* env) { free(env); }

static void observe(const myriad_env* env, void* observation) {
  for (int i = 0; i < 4; ++i) ((float*)observation)[i] = (float)env->s[i];
}

static int reset(myriad_env* env, const myriad_random* random, void* observation, myriad_error* error) {
  (void)error;
  for (int i = 0; i < 4; ++i) env->s[i] = random->uniform(random, -0.05, 0.05);
  observe(env, observation);
  return 0;
}

static int step(myriad_env* env, const void* action, const myriad_random* random, void* observation, double* reward,
                uint8_t* terminated, myriad_error* error) {
  double* s = env->s;
  const double push = *(const int32_t*)action == 1 ? env->force : -env->force, sine = sin(s[2]), cosine = cos(s[2]);
  const double centripetal = (push + 0.05 * s[3] * s[3] * sine) / 1.1; /* 0.05 = pole mass x half length */
  const double theta_acc = (9.8 * sine - cosine * centripetal) / (0.5 * (4.0 / 3.0 - 0.1 * cosine * cosine / 1.1));
  const double derivative[4] = {s[1], centripetal - 0.05 * theta_acc * cosine / 1.1, s[3], theta_acc};
  (void)random, (void)error;
  for (int i = 0; i < 4; ++i) s[i] += 0.02 * derivative[i]; /* s a step */
  observe(env, observation);
  *reward = 1.0;
  *terminated = fabs(s[0]) > 2.4 || fabs(s[2]) > 0.20943951; /* m, rad */
  return 0;
}

static int save(const myriad_env* env, double* state, myriad_error* error) {
  (void)error;
  for (int i = 0; i < 4; ++i) state[i] = env->s[i];
  return 0;
}

static int load(myriad_env* env, const double* state, void* observation, myriad_error* error) {
  (void)error;
  for (int i = 0; i < 4; ++i) env->s[i] = state[i];
  observe(env, observation);
  return 0;
}

static const myriad_plugin plugin = {
    .abi = MYRIAD_ENV_ABI,
    .size = sizeof(myriad_plugin),
    .id = "@ID@",
    .max_episode_steps = 500,
    .reward_threshold = NAN,
    .options = options,
    .num_options = 1,
    .spaces = spaces,
    .create = create,
    .destroy = destroy,
    .reset = reset,
    .step = step,
    .num_state = 4,
    .save = save,
    .load = load,
};

MYRIAD_EXPORT const myriad_plugin* myriad_env_plugin(void) { return &plugin; }
