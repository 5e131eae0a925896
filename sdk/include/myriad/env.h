/* The plugin ABI of Myriad, version 1: an environment as a shared library, in C99.
 *
 * A plugin exports one function, myriad_env_plugin(), which returns a table that lives as long as the library. Myriad
 * loads it only in the processes that run environments: a crash costs one of them, and no more. Sizes, types and
 * calling convention are C's, so compiler and standard library of plugin and program need not be the same.
 *
 * A function that can fail returns 0, or another number after writing one line of text into `error`. That ends the
 * episode: the environment is destroyed and another created in its place. Environments are
 * used by one thread each, several of them in one process: keep no global state that changes. Time limits and resets are
 * Myriad's: step() never resets, and never ends an episode for its length.
 *
 * Minor versions append to the table: `size` says how far a plugin's goes, and what it has not counts as 0.
 */
#ifndef MYRIAD_ENV_H
#define MYRIAD_ENV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MYRIAD_ENV_ABI 1
#define MYRIAD_EXPORT __attribute__((visibility("default")))

enum { MYRIAD_BOX, MYRIAD_DISCRETE, MYRIAD_MULTI_DISCRETE, MYRIAD_MULTI_BINARY };
enum { MYRIAD_F32, MYRIAD_F64, MYRIAD_U8, MYRIAD_I32 };

/* What an observation or an action looks like, in Gymnasium's terms. A row is `count` elements, packed: of `dtype` for a
 * box, int32_t for the others. Pointers live as long as the plugin. */
typedef struct {
  uint32_t kind;
  uint32_t dtype;        /* box */
  uint32_t num_dims;     /* box */
  uint32_t num_bounds;   /* box: 1, or one of each for every element */
  const int32_t* shape;  /* box */
  const double* low;     /* box; -INFINITY where there is none */
  const double* high;
  int32_t n;             /* discrete: one of n; multi-discrete: length of nvec; multi-binary: elements */
  int32_t start;         /* discrete: the least value */
  const int32_t* nvec;   /* multi-discrete */
} myriad_space;

typedef struct {
  const char* name;
  double value; /* the default */
} myriad_option;

typedef struct {
  char text[512];
} myriad_error;

/* Random numbers that Myriad seeds, saves and restores: use no others. */
typedef struct myriad_random myriad_random;
struct myriad_random {
  uint64_t (*bits)(const myriad_random* random);
  double (*uniform)(const myriad_random* random, double low, double high); /* [low, high) */
  double (*normal)(const myriad_random* random);                           /* mean 0, deviation 1 */
};

/* How S_{t+1} ends its episode: 0, or these together. */
enum {
  MYRIAD_TERMINATED = 1, /* it has no future */
  MYRIAD_TRUNCATED = 2,  /* for another reason: since minor version 1; before, all but 0 was a termination */
  MYRIAD_ENV_FAILED = 4      /* of step_batch(), since minor version 3: this environment failed, the others did not; `error` says why */
};

typedef struct myriad_env myriad_env; /* the plugin's own */

typedef struct {
  uint32_t abi;  /* MYRIAD_ENV_ABI, first in every version */
  uint32_t size; /* of this table: later minor versions append */

  const char* id;              /* "CartPole-v1" */
  int32_t max_episode_steps;   /* 0: none */
  double reward_threshold;     /* the mean return called solved; NAN: none */
  const myriad_option* options;
  size_t num_options;

  /* `options`: the values, in the order of the table. */
  int (*spaces)(const double* options, myriad_space* observation, myriad_space* action, myriad_error* error);
  myriad_env* (*create)(const double* options, myriad_error* error); /* NULL: failed */
  void (*destroy)(myriad_env* env);

  /* Writes S_0. */
  int (*reset)(myriad_env* env, const myriad_random* random, void* observation, myriad_error* error);
  /* Applies the action; writes S_{t+1}, the reward and whether the episode ends. */
  int (*step)(myriad_env* env, const void* action, const myriad_random* random, void* observation, double* reward,
              uint8_t* ended, myriad_error* error);

  /* All three or none (NULL): the whole state as num_state doubles, from which load() goes on bit for bit. */
  size_t num_state;
  int (*save)(const myriad_env* env, double* state, myriad_error* error);
  int (*load)(myriad_env* env, const double* state, void* observation, myriad_error* error);

  /* Minor version 1. Each may be 0. */

  /* A picture of the state: height rows of width pixels of red, green, blue, the top row first. */
  int (*render)(myriad_env* env, int32_t width, int32_t height, uint8_t* rgb, myriad_error* error);
  double render_fps; /* at which one frame a step shows the simulation's own time; 0: 30 */

  /* step() for `count` environments at once, where that is faster: element i of each array is of environment i. Used
   * for those of a vector together; step() still has to be there, for one alone. */
  int (*step_batch)(size_t count, myriad_env* const* envs, const void* const* actions,
                    const myriad_random* const* randoms, void* const* observations, double* rewards, uint8_t* ended,
                    myriad_error* error);

  /* Minor version 2. */

  /* 1: what reset(), step() and load() write as an observation is longer than its space says: its elements are followed
   * by as many of the same type as the action has choices (n of discrete; the sum of nvec of multi-discrete; 2 n of
   * multi-binary, 0 and 1 of each element), 0 where a choice is not possible in this state, else 1. Myriad then takes none of those that are not. A state that does not
   * end its episode allows something. */
  uint32_t masks_actions;

  /* Minor version 3. Each may be 0. */

  /* Numbers of an episode for the results of a run, as "is_success"; asked where it ends: numbers() writes num_numbers of
   * them, NAN for one that this episode has not. */
  size_t num_numbers;
  const char* const* number_names;
  int (*numbers)(const myriad_env* env, double* values, myriad_error* error);
} myriad_plugin;

MYRIAD_EXPORT const myriad_plugin* myriad_env_plugin(void);

/* A library of several environments exports this, too: the table of number `index`, NULL past the last one. Number 0 is
 * myriad_env_plugin()'s. "plugin:PATH#ID" is the environment with that id. */
MYRIAD_EXPORT const myriad_plugin* myriad_env_plugin_at(size_t index);

#ifdef __cplusplus
}
#endif

#endif
