"""What no seed decides: the table of clocks, randomness, threads, sockets and processes, with the remedies.

Data only; guards.py puts a guard in front of each. `deep` sources are stopped even if a library calls
them on the model's behalf (whoever starts a thread or opens a socket leaves the seed, and what is drawn from
the process's own generators is a result); of the others only the model's own calls are: a library that looks
at the clock for its log does no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NOW = "world.now (virtual seconds), or the context's now_ms()"
SLEEP = "await trio.sleep(seconds), which takes virtual time"
RANDOM = 'world.rng("a name")'
BYTES = 'world.rng("a name").randbytes(n), or the context\'s token_bytes(n)'
UUID = 'uuid.UUID(bytes=world.rng("a name").randbytes(16), version=4)'
SEEDED = 'world.rng("a name"), or a seed: random.Random(number)'
NUMPY = 'numpy.random.default_rng(world.rng("a name").getrandbits(64))'
TORCH = 'a generator of your own: torch.Generator().manual_seed(world.rng("a name").getrandbits(63))'
WEIGHTS = (
    "generator=torch.Generator().manual_seed(…). For a layer: make it before the run, under a seed; "
    "or by torch.nn.utils.skip_init, and torch.nn.init with a generator"
)
DROPOUT = "a mask of your own generator, or eval()"
THREAD = "a task: nursery.start_soon(function)"
SOCKET = "the agent's own network: world.spawn(name) gives every node one"
PROCESS = "world.spawn(name), or start it before the world does"

Condition = Callable[[tuple[Any, ...], dict[str, Any]], bool]


def _always(_args: tuple[Any, ...], _kwargs: dict[str, Any]) -> bool:
    return True


def _first_missing(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """No time or no seed given (or None): the real one would be taken."""
    given = [*args, *kwargs.values()]
    return not given or given[0] is None


def _second_missing(args: tuple[Any, ...], _kwargs: dict[str, Any]) -> bool:
    return len(args) < 2


def _no_generator(_args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return kwargs.get("generator") is None


def _fills(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """A tensor's method: on the device "meta" there is nothing to draw (`torch.nn.utils.skip_init`)."""
    return _no_generator(args, kwargs) and not (args and getattr(args[0], "is_meta", False))


def _drops(args: tuple[Any, ...], kwargs: dict[str, Any], training: bool = True) -> bool:
    """torch.nn.functional.dropout(input, p, training): whether it draws a mask."""
    named = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
    return bool(named.get("training", training) and named.get("p", 0.5))


def _drops_if_told(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return _drops(args, kwargs, training=False)


@dataclass(frozen=True, slots=True)
class Source:
    """One name that is guarded.

    Attributes:
        module: where it is found; skipped while that module is not imported.
        name: the attribute; `Class.method` for a method.
        remedy: what to call instead.
        deep: stopped also when a library calls it for the model.
        when: for which arguments it reads the real world.
    """

    module: str
    name: str
    remedy: str
    deep: bool = False
    when: Condition = _always


def _of(
    module: str, names: str, remedy: str, *, deep: bool = False, when: Condition = _always
) -> list[Source]:
    return [Source(module, name, remedy, deep, when) for name in names.split()]


def _drawn(module: str, names: str, remedy: str, *, when: Condition = _always) -> list[Source]:
    """Of a generator that the whole process shares: also what a library draws of it is a result."""
    return _of(module, names, remedy, deep=True, when=when)


SOURCES: tuple[Source, ...] = (
    *_of("time", "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns", NOW),
    *_of(
        "time", "process_time process_time_ns thread_time thread_time_ns clock_gettime clock_gettime_ns", NOW
    ),
    *_of("time", "localtime gmtime ctime asctime", NOW, when=_first_missing),
    *_of("time", "strftime", NOW, when=_second_missing),
    *_of("time", "sleep", SLEEP),
    *_of("datetime", "datetime.now datetime.utcnow datetime.today date.today", NOW),
    *_drawn("random", "random uniform triangular randint choice randrange sample shuffle choices", RANDOM),
    *_drawn("random", "normalvariate lognormvariate expovariate vonmisesvariate gammavariate gauss", RANDOM),
    *_drawn(
        "random", "betavariate binomialvariate paretovariate weibullvariate getrandbits randbytes", RANDOM
    ),
    *_of("random", "seed getstate setstate SystemRandom", RANDOM),
    *_of("random", "Random", SEEDED, when=_first_missing),
    *_of("os", "urandom getrandom", BYTES),
    *_of("posix", "urandom getrandom", BYTES),
    *_of("ssl", "RAND_bytes", BYTES),
    *_of("nacl.utils", "random", BYTES),
    *_of("secrets", "token_bytes token_hex token_urlsafe randbits randbelow choice SystemRandom", BYTES),
    *_of("uuid", "uuid1 uuid4 uuid6 uuid7", UUID),
    *_drawn("numpy.random", "default_rng RandomState SeedSequence", NUMPY, when=_first_missing),
    *_drawn("numpy.random", "MT19937 PCG64 PCG64DXSM Philox SFC64", NUMPY, when=_first_missing),
    *_of("numpy.random", "seed get_state set_state", NUMPY),
    *_drawn("numpy.random", "rand randn randint random random_sample ranf sample", NUMPY),
    *_drawn("numpy.random", "random_integers bytes choice shuffle permutation", NUMPY),
    *_drawn("numpy.random", "uniform normal beta binomial", NUMPY),
    *_drawn("numpy.random", "chisquare dirichlet exponential f gamma geometric gumbel hypergeometric", NUMPY),
    *_drawn("numpy.random", "laplace logistic lognormal logseries multinomial multivariate_normal", NUMPY),
    *_drawn(
        "numpy.random", "negative_binomial noncentral_chisquare noncentral_f pareto poisson power", NUMPY
    ),
    *_drawn("numpy.random", "rayleigh standard_cauchy standard_exponential standard_gamma standard_t", NUMPY),
    *_drawn("numpy.random", "standard_normal triangular vonmises wald weibull zipf", NUMPY),
    *_drawn("torch", "rand randn randint randperm normal", TORCH, when=_no_generator),
    *_drawn("torch", "bernoulli multinomial poisson", TORCH, when=_no_generator),
    *_drawn("torch", "rand_like randn_like randint_like", TORCH, when=_no_generator),
    *_of("torch", "seed manual_seed get_rng_state set_rng_state", TORCH),
    *_drawn("torch", "Tensor.uniform_ Tensor.normal_ Tensor.random_", WEIGHTS, when=_fills),
    *_drawn("torch", "Tensor.bernoulli Tensor.bernoulli_", TORCH, when=_fills),
    *_drawn("torch", "Tensor.multinomial Tensor.exponential_", TORCH, when=_fills),
    *_drawn("torch", "Tensor.cauchy_ Tensor.geometric_ Tensor.log_normal_", TORCH, when=_fills),
    *_drawn("torch.nn.functional", "dropout dropout1d dropout2d dropout3d", DROPOUT, when=_drops),
    *_drawn("torch.nn.functional", "alpha_dropout feature_alpha_dropout", DROPOUT, when=_drops_if_told),
    *_of("threading", "Thread.start", THREAD, deep=True),
    *_of("_thread", "start_new_thread", THREAD),
    *_of("trio", "to_thread.run_sync", THREAD, deep=True),
    *_of(
        "socket", "socket.__init__ getaddrinfo gethostbyname gethostbyname_ex getnameinfo", SOCKET, deep=True
    ),
    *_of("subprocess", "Popen.__init__", PROCESS, deep=True),
    *_of("trio", "run_process lowlevel.open_process", PROCESS, deep=True),
    *_of("os", "fork forkpty system posix_spawn posix_spawnp execv execve", PROCESS, deep=True),
    *_of("multiprocessing.process", "BaseProcess.start", PROCESS, deep=True),
)
