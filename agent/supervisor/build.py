"""Which build of the agent this is: `pure`, or `compiled` by mypyc (`make build`). The workers are of the same one."""

from agent.model import cluster

BUILD = "pure" if (cluster.__file__ or "").endswith(".py") else "compiled"
