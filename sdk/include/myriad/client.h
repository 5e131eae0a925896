/* A simulator or a game in a process of its own, as an environment of Myriad: libmyriad_client, in C99.
 *
 *   myriad_serve      Myriad resets and steps it: env = "process:COMMAND" or "connect:ADDRESS"
 *   myriad_client_*   it asks for actions at its own pace: env = "clients:FILE"
 *
 * What goes over the wire is docs/protocol.md. A client is used by one thread at a time. Functions return 0, or another
 * number after writing one line of text into `error`.
 */
#ifndef MYRIAD_CLIENT_H
#define MYRIAD_CLIENT_H

#include <myriad/env.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Serves the environments of a plugin's table until Myriad goes. `listen`: "HOST:PORT" or a unix socket's path, where every
 * connection gets environments of its own, in a process of its own; NULL: Myriad has started this process. */
MYRIAD_EXPORT int myriad_serve(const myriad_plugin* plugin, const char* listen, myriad_error* error);

typedef struct myriad_client myriad_client;

enum {
  MYRIAD_OK = 0,
  MYRIAD_FAILED = 1,
  MYRIAD_EPISODE_LOST = 2 /* the run has given the episode up after the connection was lost: begin another */
};

/* Connects to "HOST:PORT" or a unix socket's path, trying for `patience_s`; so does every call that finds the connection
 * lost. `token`, `name`: may be NULL. NULL: failed. */
MYRIAD_EXPORT myriad_client* myriad_client_connect(const char* address, const myriad_space* observation,
                                                   const myriad_space* action, const char* token, const char* name,
                                                   double patience_s, myriad_error* error);
/* The first observation of an episode; writes what to do. */
MYRIAD_EXPORT int myriad_client_begin(myriad_client* client, const void* observation, void* action, myriad_error* error);
/* What the last action led to; writes what to do now. */
MYRIAD_EXPORT int myriad_client_act(myriad_client* client, const void* observation, double reward, void* action,
                                    myriad_error* error);
/* Adds to the reward of the next act() or end(). */
MYRIAD_EXPORT int myriad_client_log_reward(myriad_client* client, double reward, myriad_error* error);
/* The last observation. `ended`: MYRIAD_TERMINATED or MYRIAD_TRUNCATED. */
MYRIAD_EXPORT int myriad_client_end(myriad_client* client, const void* observation, double reward, int ended,
                                    myriad_error* error);
MYRIAD_EXPORT void myriad_client_close(myriad_client* client);

#ifdef __cplusplus
}
#endif

#endif
