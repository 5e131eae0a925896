#!/usr/bin/env python3
"""Environments' steps a second against peers, in turn in one run: `./myriad bench simulators [bridge | external | envpool | atari] ...`.

bridge    gymnasium:ID against Gymnasium's AsyncVectorEnv, with the same number of simulator processes
external  a C++ simulator in a process of its own: round trips of 1, 8 and 64 at once
envpool   Myriad's own environments in two processes against EnvPool with two threads (--python: one that has envpool)
atari     ale:GAME, four frames stacked, against a bare loop over ALE in as many processes, and against EnvPool; after ./myriad plugin ale
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BENCH = ROOT / "build/bench/simulator_bench"
SECONDS = 4.0

ASYNC_VECTOR = """
import sys, time, gymnasium
env_id, n, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
envs = gymnasium.make_vec(env_id, num_envs=n, vectorization_mode="async")
envs.reset(seed=1)
actions = [envs.action_space.sample() for _ in range(512)]
for phase in (1.0, seconds):
    start, vectors = time.perf_counter(), 0
    while (gone := time.perf_counter() - start) < phase:
        envs.step(actions[vectors % 512])
        vectors += 1
print(vectors * n / gone)
envs.close()
"""
ENVPOOL = """
import sys, time, numpy as np, envpool
env_id, n, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
def rate(batch):
    envs = envpool.make(env_id, env_type="gymnasium", num_envs=n, batch_size=batch, num_threads=2, seed=1)
    space = envs.action_space
    draw = (lambda: np.random.randint(space.n, size=batch)) if hasattr(space, "n") else (lambda: np.random.uniform(space.low, space.high, (batch, *space.shape)).astype(space.dtype))
    actions = [draw() for _ in range(512)]
    envs.async_reset()
    for phase in (1.0, seconds):
        start, vectors = time.perf_counter(), 0
        while (gone := time.perf_counter() - start) < phase:
            info = envs.recv()[-1]
            envs.send(actions[vectors % 512], info["env_id"])
            vectors += 1
    return vectors * batch / gone
print(max(rate(n), rate(n // 2)))
"""


def myriad(env: str, envs: int, processes: int, frame_stack: int = 1) -> dict:
    return json.loads(subprocess.run([BENCH, env, str(envs), str(processes), str(SECONDS), str(frame_stack)], check=True, capture_output=True, text=True).stdout)


def peer(python: str, script: str, env: str, n: int) -> float:
    return float(subprocess.run([python, "-c", script, env, str(n), str(SECONDS)], check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def in_turn(*measured, rounds: int = 3) -> list[float]:
    """The medians, each measured `rounds` times, one after the other."""
    values = [[] for _ in measured]
    for _ in range(rounds):
        for i, one in enumerate(measured):
            values[i].append(one())
    return [statistics.median(v) for v in values]


def bridge(arguments) -> None:
    for env in arguments.envs or ["CartPole-v1", "HalfCheetah-v5"]:
        for processes in (1, 2):
            theirs, one, eight = in_turn(lambda: peer(arguments.python, ASYNC_VECTOR, env, processes),
                                         lambda: myriad(f"gymnasium:{env}", 1, processes)["steps_per_s"],
                                         lambda: myriad(f"gymnasium:{env}", 8, processes)["steps_per_s"])
            print(f"{env}, {processes} simulator processes: AsyncVectorEnv {theirs:,.0f} steps/s; Myriad {one:,.0f} with one environment each "
                  f"({one / theirs:.1f}x), {eight:,.0f} with eight ({eight / theirs:.1f}x)")


def external(arguments) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prefix, template = pathlib.Path(folder), ROOT / "sdk/templates/cpp/NAME.cpp.in"
        text = template.read_text().replace("@CLASS@", "Cart").replace("@ID@", "Cart-v0").replace("MYRIAD_ENVIRONMENT(Cart)", "").replace("env.hpp", "client.hpp")
        (prefix / "cart.cpp").write_text(text + "int main(int argc, char** argv) { return myriad::serve<Cart>(argc, argv); }\n")
        subprocess.run(["c++", "-std=c++17", "-O2", f"-I{ROOT}/sdk/include", prefix / "cart.cpp", "-o", prefix / "cart", f"-L{ROOT}/build/sdk", "-lmyriad_client",
                        f"-Wl,-rpath,{ROOT}/build/sdk"], check=True)
        for simulators in (1, 8, 64):
            one, eight = myriad(f"process:{prefix}/cart", 1, simulators), myriad(f"process:{prefix}/cart", 8, simulators)
            print(f"{simulators} simulators: one environment each {one['steps_per_s']:,.0f} steps/s, round trip p50 {one['p50_us']} us, p99 {one['p99_us']} us; "
                  f"eight each {eight['steps_per_s']:,.0f} steps/s")


def envpool(arguments) -> None:
    for env in arguments.envs or ["CartPole-v1", "Pendulum-v1", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "Swimmer-v5", "Reacher-v5", "Pusher-v5",
                                  "InvertedPendulum-v5", "InvertedDoublePendulum-v5", "HumanoidStandup-v5"]:
        best = 0.0
        for n in (64, 256):
            theirs, ours = in_turn(lambda: peer(arguments.python, ENVPOOL, env, n), lambda: myriad(env, 32, 2)["steps_per_s"], rounds=2)
            best = max(best, theirs)
        print(f"{env}: EnvPool {best:,.0f} steps/s (best of 64 and 256, sync and async), Myriad {ours:,.0f} ({ours / best:.2f}x)", flush=True)


def atari(arguments) -> None:
    plugin = ROOT / "build/plugins/ale"

    def bare(game: str, processes: int) -> float:
        rom = "".join(f"_{c.lower()}" if c.isupper() else c for c in game).lstrip("_")
        running = [subprocess.Popen([plugin / "bare_loop", plugin / f"roms/{rom}.bin", str(SECONDS)], stdout=subprocess.PIPE, text=True) for _ in range(processes)]
        return sum(float(process.communicate()[0]) for process in running)

    for game in arguments.envs or ["Pong", "Breakout"]:
        alone, ours = in_turn(lambda: bare(game, 1), lambda: myriad(f"ale:{game}", 8, 1, 4)["steps_per_s"], rounds=5)
        print(f"{game}, one process: bare ALE {alone:,.0f} steps/s, Myriad {ours:,.0f} ({100 * ours / alone:.0f} %)", flush=True)
        alone, ours, theirs = in_turn(lambda: bare(game, 2), lambda: myriad(f"ale:{game}", 32, 2, 4)["steps_per_s"],
                                      lambda: peer(arguments.python, ENVPOOL, f"{game}-v5", 64), rounds=3)
        print(f"{game}, two: bare ALE {alone:,.0f} steps/s, Myriad {ours:,.0f} ({100 * ours / alone:.0f} %), EnvPool {theirs:,.0f} ({ours / theirs:.2f}x)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="./myriad bench simulators", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("bridge", "external", "envpool", "atari"))
    parser.add_argument("envs", nargs="*")
    parser.add_argument("--python", default=sys.executable)
    arguments = parser.parse_args()
    {"bridge": bridge, "external": external, "envpool": envpool, "atari": atari}[arguments.what](arguments)


if __name__ == "__main__":
    main()
