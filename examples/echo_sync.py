"""The same, blocking: no event loop in sight."""

from echo_env import EchoAction, EchoEnv

with EchoEnv.local("echo_env").sync() as env:
    env.reset(seed=0)
    result = env.step(EchoAction(message="hello"))
    print(result.observation.echoed_message, result.reward)
