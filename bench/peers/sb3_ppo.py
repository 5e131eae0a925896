"""Stable-Baselines3 PPO on the same work as bench/end_to_end.py: `python sb3_ppo.py solve|throughput [seed]`.

Needs an environment of its own with stable-baselines3, gymnasium[mujoco] and torch; prints one JSON object.
  solve       CartPole-v1 with rl-zoo's tuned settings until the mean of 100 training episodes is 475
  throughput  HalfCheetah-v5 at SB3's defaults (2,048 steps x 8 environments, minibatch 64, 10 epochs, 64x64)
"""
import json
import sys
import time

START = time.time()
import torch  # noqa: E402
from stable_baselines3 import PPO  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402

torch.set_num_threads(1)
what, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0


class StopAt475(BaseCallback):
    def _on_step(self):
        returns = [e["r"] for e in self.model.ep_info_buffer]
        return len(returns) < 100 or sum(returns) / len(returns) < 475


if what == "solve":
    def linear(x0):
        return lambda left: left * x0
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", n_envs=8, seed=seed), n_steps=32, batch_size=256, gae_lambda=0.8,
                gamma=0.98, n_epochs=20, ent_coef=0.0, learning_rate=linear(0.001), clip_range=linear(0.2), seed=seed, device="cpu")
    model.learn(100_000, callback=StopAt475())
    print(json.dumps({"what": "sb3 cartpole", "seed": seed, "seconds": time.time() - START, "env_steps": model.num_timesteps}))
else:
    model = PPO("MlpPolicy", make_vec_env("HalfCheetah-v5", n_envs=8, seed=seed), seed=seed, device="cpu")
    model.learn(16_384)  # the first round warms up
    start = time.time()
    model.learn(3 * 16_384)
    print(json.dumps({"what": "sb3 half-cheetah", "steps_per_s": 3 * 16_384 / (time.time() - start)}))
