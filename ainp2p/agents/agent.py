"""An agent: one key on one network that sells skills, buys them, and keeps its own books.

    async with Agent("alice", skills=[summarise], model="smollm2-135m") as alice: …

Everything that an agent needs is opened in the order of dependence and closed in reverse: network, ledger
membership, vault, wallet, models, directory, the selling and the buying side. Nothing happens before the
``async with`` block; nothing is left after it.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio

from ainp2p.agents.buying import Buyer, Offers, OnJob, Plan, open_buyer
from ainp2p.agents.deposit import OnReceipt
from ainp2p.agents.development import (
    GENESIS_PROTOCOL,
    Transport,
    ask_genesis,
    faucet_peer,
    genesis_handler,
    open_development,
)
from ainp2p.agents.directory import CardDraft, Directory, open_directory
from ainp2p.agents.job import Job
from ainp2p.agents.models.model import Model
from ainp2p.agents.offers import Offer
from ainp2p.agents.peers import remembered_peers
from ainp2p.agents.policy import Policy
from ainp2p.agents.selling import Seller, open_seller
from ainp2p.agents.session import (
    Term,
    as_opened,
    check_newer,
    follow_mandate,
    give_back,
    may_buy,
    open_allowance,
    refuse_buying,
    until_its_end,
)
from ainp2p.agents.skill import Skill
from ainp2p.agents.standing import Standing, can_change, check_session, speaks_for
from ainp2p.agents.vault import Vault, open_vault
from ainp2p.errors import BadSignature, Closed, Error, InvalidInput, NetworkError, Refused
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import Inception, plain_inception
from ainp2p.ledger.serving.faucet import ask_purse
from ainp2p.ledger.wallets.delegation import Delegation, SignedDelegation
from ainp2p.ledger.wallets.wallet import Balance, SettlePolicy, Wallet, open_wallet
from ainp2p.protocol import card, messages
from ainp2p.protocol.codec import encode
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key, id_text, peer_id, public_from_peer_id
from ainp2p.protocol.network import Network, PeerId
from ainp2p.protocol.price import Price
from ainp2p.protocol.strategies import Strategies

log = logging.getLogger(__name__)

LISTEN = ("/ip4/127.0.0.1/tcp/0",)  # loopback: who wants to be reached from elsewhere says so
SETTLE_UP_S = 5.0  # normally 0.1 s; more if the committee is gone, or its disks are slow
SLOTS = 4  # jobs that an agent works on at once
_genesis_handler = lru_cache(maxsize=16)(genesis_handler)  # agents of one process hand out the same bytes


class Agent:
    """Buys and sells; `ainp2p.Agent` is all that most programs need.

    Args:
        name: what the card calls it; anybody may use any name.
        skills: what it sells.
        model: names of models (`ainp2p model list`), opened as worker processes, or open `Model` objects.
        key: None makes an ephemeral agent, on a development network only.
        network: a genesis, or the path of a genesis file. None: the bootstrap peers' development network, or
            a new one in this process where no bootstrap is given.
        bootstrap: addresses of peers to begin with.
        listen: multiaddrs to listen on.
        home: directory of this agent's books (vault and wallet); None: in memory, for ephemeral agents only.
        policy: what the vault may spend.
        slots: jobs worked on at once.
        strategies: how it bargains (`ainp2p.protocol.strategies`).
        on_receipt: told of each receipt that it signs, with the Lock: for those who show what is paid.
        on_job: told of each job that it bought, once that has ended; its `legs` are the bill.
        account: what its account was born with, if that is more than `key` (guardians, a next key).
        delegation: `key` is a session key: what the account's key lets it do. Such an agent sells for the
            account, and buys, if the delegation says so, from the session key's own account (`purse`).
            It ends with the delegation's time, by `DelegationEnded` out of the block, unless it is renewed
            before (`renew`, `renew_from`).
        watchtowers: addresses of peers that get its highest receipts, and settle them if it vanishes.
        checkpoint: id of a COMMITTEE that you trust: nothing is believed before a chain with it is shown.
        transport: how networks are opened, for simulations; None: real libp2p.
    """

    def __init__(
        self,
        name: str,
        *,
        skills: Sequence[Skill] = (),
        model: str | Model | Sequence[str | Model] | None = None,
        key: Key | None = None,
        network: Genesis | Path | str | None = None,
        bootstrap: Sequence[str] = (),
        listen: Sequence[str] = LISTEN,
        home: Path | None = None,
        policy: Policy | None = None,
        slots: int = SLOTS,
        strategies: Strategies | None = None,
        on_receipt: OnReceipt | None = None,
        on_job: OnJob | None = None,
        account: Inception | None = None,
        delegation: SignedDelegation | None = None,
        watchtowers: Sequence[str] = (),
        checkpoint: bytes | None = None,
        context: Context | None = None,
        transport: Transport | None = None,
    ) -> None:
        if not 1 <= len(name.encode()) <= 64:
            raise InvalidInput("an agent's name has 1 to 64 bytes")
        if len({skill.name for skill in skills}) != len(skills):
            raise InvalidInput("two skills of this agent have the same name")
        if slots < 1:
            raise InvalidInput("an agent works on at least one job at once: slots=1 or more")
        if key is not None and home is None:
            raise InvalidInput("an agent with a key keeps books: pass home=, a directory of its own")
        if delegation is not None and (account is None or key is None):
            raise InvalidInput("a delegation is for a session key of an account: pass key= and account= too")
        self.name, self.skills, self.slots = name, tuple(skills), slots
        self._model = [model] if isinstance(model, str) or not isinstance(model, Sequence) else list(model)
        self._key, self._genesis, self._bootstrap = key, network, tuple(bootstrap)
        self._listen, self._home, self._policy = tuple(listen), home, policy or Policy()
        self._strategies, self._on_receipt, self._on_job = strategies or Strategies(), on_receipt, on_job
        self._account, self._delegation, self._checkpoint = account, delegation, checkpoint
        self._session: Delegation | None = None  # what `delegation` says, once it was checked
        self._term: Term | None = None  # how long it goes on by that
        self._watchtowers = {_watchtower(each): each for each in watchtowers}
        self._context = context or Context.system()
        self._transport = transport or self._libp2p
        self._stack: AsyncExitStack | None = None
        self._running: _Running | None = None

    # --- lifetime ----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise InvalidInput("an agent is opened once: make another one")
        self._stack = AsyncExitStack()
        try:
            self._running = await self._open(self._stack)
        except BaseException as exc:
            await self._stack.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        return self

    def __repr__(self) -> str:
        who = f" {id_text(self.id)}" if self._running is not None else ""
        return f"Agent({self.name!r}{who})"

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        self._running = None
        assert self._stack is not None  # __aenter__ made it
        return await self._stack.__aexit__(exc_type, exc, traceback)

    # --- who it is ---------------------------------------------------------------------------------

    @property
    def id(self) -> bytes:
        """The agent's id: that of its ledger account."""
        return self._open_parts.wallet.account_id

    @property
    def peer_id(self) -> PeerId:
        """The libp2p peer id of its key."""
        return self._open_parts.network.peer_id

    @property
    def address(self) -> str:
        """Where it can be dialled: what others give as `bootstrap`."""
        return self.addresses[0]

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses at which it can be dialled."""
        return self._open_parts.network.addresses

    @property
    def genesis(self) -> Genesis:
        """The network that it is on."""
        return self._open_parts.genesis

    @property
    def network(self) -> Network:
        """The peer-to-peer network, for protocols of one's own."""
        return self._open_parts.network

    @property
    def wallet(self) -> Wallet:
        """Its ledger account."""
        return self._open_parts.wallet

    @property
    def purse(self) -> Wallet:
        """The account from which it buys: `wallet`, or the session key's own under a `delegation`."""
        return self._open_parts.purse

    @property
    def directory(self) -> Directory:
        """The cards that it knows."""
        return self._open_parts.directory

    @property
    def models(self) -> tuple[Model, ...]:
        """Its open models."""
        return self._open_parts.models

    # --- buying ------------------------------------------------------------------------------------

    async def find(
        self,
        skill: str,
        *,
        max_price: str | Price | None = None,
        at_least: int = 1,
        timeout_s: float = 5.0,
        limit: int = 20,
    ) -> list[Offer]:
        """Offers of a skill by peers that are alive, best first; `Offer.explain` tells why.

        Waits for `at_least` offers while there is time, and returns fewer after it.

        Raises:
            NoOffers: none within `timeout_s`.
        """
        found = await self._open_parts.directory.find(
            skill, max_price=_price(max_price), at_least=at_least, timeout_s=timeout_s, limit=limit
        )
        return list(found)

    def hire(
        self,
        offers: Offers,
        *,
        budget: int = 0,
        max_price: str | Price | None = None,
        input: dict[str, Any] | None = None,
        seed: bytes = b"",
        **fields: Any,
    ) -> AbstractAsyncContextManager[Job]:
        """Have one task done: ``async for`` over the job gives the result as it comes.

        The best proposal of `offers` gets the award; if its seller fails, the next one goes on. Leaving the
        block stops the work and the payment.

        Args:
            offers: from `find`, or a `Skill` of our own, which runs in-process and costs nothing.
            budget: uain; a hard cap over everything that this task may cost.
            max_price: the most that a proposal may say; None: what the seller's own card says.
            input: the skill's input; keyword arguments are a shorthand for it.
            seed: at most 32 bytes, for sampling.

        Raises:
            PolicyRefused, InsufficientFunds: nothing was signed.
            NoOffers: nobody would do it; raised when the result is read.
        """
        if input is not None and fields:
            raise InvalidInput("give the input either as input= or as keyword arguments")
        if self._session is not None and not isinstance(offers, Skill):
            refuse_buying(self._session)
        return self._open_parts.buyer.hire(
            offers, input or fields, budget, max_price=_price(max_price), seed=seed
        )

    async def ask(
        self,
        skill: str | Skill,
        *,
        budget: int = 0,
        max_price: str | Price | None = None,
        input: dict[str, Any] | None = None,
        seed: bytes = b"",
        **fields: Any,
    ) -> Any:
        """Find, hire and read to the end: for people who do not care how.

        Returns the whole text, or the value that the skill yields (a list if there are several).
        """
        offers: Offers = skill if isinstance(skill, Skill) else await self.find(skill, max_price=max_price)
        async with self.hire(
            offers, budget=budget, max_price=max_price, input=input, seed=seed, **fields
        ) as job:
            return await job.result()

    async def plan(
        self,
        skill: str,
        *,
        budget: int,
        max_price: str | Price | None = None,
        input: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Plan:
        """What `ask` with these arguments could cost, and which rules would forbid it; moves no money."""
        offers = await self.find(skill, max_price=max_price)
        return await self._open_parts.buyer.plan(offers, input or fields, budget)

    async def balance(self) -> Balance:
        """What the account has: available, locked, owed, total, in uain."""
        return await self._open_parts.wallet.balance()

    @property
    def tripped(self) -> str:
        """Why it pays nothing now (``"breaker:errors"``, ``"stopped"``, …); empty if all is well."""
        return self._open_parts.vault.tripped

    async def stop_spending(self) -> None:
        """Sign no payment until `resume_spending`, also after a restart; jobs under way end there."""
        await self._open_parts.vault.stop()

    async def resume_spending(self) -> None:
        """Close a tripped breaker, or end a stop: for a person to decide, not for a program."""
        await self._open_parts.vault.reset()

    # --- on a session key --------------------------------------------------------------------------

    async def renew(self, delegation: SignedDelegation) -> None:
        """Go on under a newer delegation of the same account to the same session key; everybody is told.

        All that it says counts at once, but that an agent which was opened to sell only buys when it is
        opened again. The one that it runs on already changes nothing.

        Raises:
            InvalidInput: the agent runs on no delegation; or this one is another key's, or no newer one.
            DelegationEnded, Expired, BadSignature, Refused, Malformed: as `check_session`.
        """
        parts, held, key, account = self._open_parts, self._session, self._key, self._account
        if held is None or key is None or account is None:
            raise InvalidInput("this agent runs on its account's own key, by no delegation")
        if delegation == self._delegation:
            return
        if can_change(account):  # the account's key may be another one by now
            with contextlib.suppress(Error):
                await parts.wallet.refresh()
        newest = parts.wallet.account if parts.wallet.account.seq else None
        newer = self._checked_session(delegation, parts.genesis, key, account, newest)
        check_newer(newer, held)
        self._delegation, self._session = delegation, as_opened(newer, parts.purse is not parts.wallet)
        if self._term is not None:
            self._term.renew(newer)
        if newest is not None:
            parts.standing.learn(parts.wallet.account_id, newest, parts.wallet.now_ms())
        await parts.directory.announce(parts.draft)

    async def renew_from(self, path: Path) -> None:
        """Renew by each mandate (`ainp2p wallet delegate`) that is put into a file; run it in a nursery."""
        await follow_mandate(path, self.renew, self.name)

    async def return_allowance(self) -> int:
        """Send what is free in the session key's own account back to the account; how many uain that was.

        All of it, whoever has sent it there. Deposits that are still open end later, and are not in it.

        Raises:
            As `Wallet.send`.
        """
        parts = self._open_parts
        return 0 if parts.purse is parts.wallet else await give_back(parts.purse, parts.wallet.account_id)

    # --- inside ------------------------------------------------------------------------------------

    @property
    def _open_parts(self) -> _Running:
        if self._running is None:
            raise Closed(f"agent {self.name!r} is not open: use it inside its `async with` block")
        return self._running

    async def _open(self, stack: AsyncExitStack) -> _Running:
        key, home = self._key or Key(self._context.token_bytes(32)), self._home
        genesis = await self._found_or_load(stack)
        network = await stack.enter_async_context(self._transport(key))
        if home:
            await stack.enter_async_context(remembered_peers(network, home / "peers.json"))
        reached = await _connect(network, self._bootstrap)
        await network.bootstrap(self._bootstrap)  # from now on those that are lost are dialled again
        if genesis is None:
            genesis = await ask_genesis(network, reached)
        inception = self._check_key(genesis, key)
        network.serve(GENESIS_PROTOCOL, _genesis_handler(genesis))
        vault = await stack.enter_async_context(
            open_vault(key, self._policy, home and home / "vault", network.context)
        )
        for tower, address in self._watchtowers.items():
            if address != tower:
                network.add_addresses(tower, (address,))
        wallet = await stack.enter_async_context(
            open_wallet(
                network,
                genesis,
                vault.wallet_signer(),
                home and home / "wallet",
                inception=inception,
                watchtowers=tuple(self._watchtowers),
                policy=SettlePolicy(heartbeat=self._delegation is None),
                checkpoint=self._checkpoint,
            )
        )
        await self._check_account(genesis, key, inception, wallet)
        if self._session is not None:
            self._term = await stack.enter_async_context(
                until_its_end(self._session, self._context, self.name)
            )
        await self._take_purse(network, genesis, wallet)
        purse = wallet
        if self._session is not None and may_buy(self._session):
            allowance = open_allowance(network, genesis, vault, home, self._checkpoint)
            purse = await stack.enter_async_context(allowance)
        stack.push_async_callback(_settle_up, wallet)  # once the market is closed
        models = tuple([await self._open_model(stack, model) for model in self._model if model is not None])
        return await self._open_market(
            stack, network, genesis, vault, wallet, purse, models, encode(inception)
        )

    async def _open_market(
        self,
        stack: AsyncExitStack,
        network: Network,
        genesis: Genesis,
        vault: Vault,
        wallet: Wallet,
        purse: Wallet,
        models: tuple[Model, ...],
        inception: bytes,
    ) -> _Running:
        signer = vault.signer({messages.PURPOSE, card.PURPOSE})
        validators = {peer_id(member.key) for member in genesis.validators}
        standing = Standing()
        if wallet.account.seq:
            standing.learn(wallet.account_id, wallet.account, wallet.now_ms())
        directory = await stack.enter_async_context(
            open_directory(
                network,
                genesis.network_id,
                signer,
                bound=standing,
                strangers=sorted(validators),
                look_up=wallet.account_of,
            )
        )
        seller = await stack.enter_async_context(
            open_seller(
                network,
                genesis,
                signer,
                wallet,
                self.skills,
                models,
                slots=self.slots,
                pricing=self._strategies.pricing,
                answering=self._strategies.answering,
            )
        )
        buyer = await stack.enter_async_context(
            open_buyer(
                network,
                genesis,
                vault,
                purse,
                signer,
                directory=directory,
                models=models,
                choosing=self._strategies.choosing,
                countering=self._strategies.countering,
                direct=self._strategies.direct,
                on_receipt=self._on_receipt,
                on_job=self._on_job,
                resume_s=self._strategies.resume_s,
            )
        )

        def draft() -> CardDraft:
            delegation = encode(self._delegation) if self._delegation is not None else b""
            return CardDraft(wallet.account_id, inception, self.name, seller.cards(), delegation=delegation)

        await directory.announce(draft)
        return _Running(
            network, genesis, vault, wallet, purse, models, directory, seller, buyer, standing, draft
        )

    async def _found_or_load(self, stack: AsyncExitStack) -> Genesis | None:
        """The genesis that was given; a new development network's; None: ask the bootstrap peers."""
        if isinstance(self._genesis, Genesis):
            return self._genesis
        if self._genesis is not None:
            return Genesis.load(Path(self._genesis))
        if self._bootstrap:
            return None
        return await stack.enter_async_context(open_development(self._transport, self._context))

    def _check_key(self, genesis: Genesis, key: Key) -> Inception:
        """What the account was born with, if `key` can speak for it on this network, now."""
        if self._key is None and not genesis.is_development:
            raise InvalidInput(
                f"on the network {genesis.name.decode(errors='replace')!r} an agent needs a key of its own: "
                "pass key= (make one with `ainp2p key new`) and home="
            )
        inception = self._account or plain_inception(key.public)
        if can_change(inception):
            return inception  # the ledger tells which key it has now: `_check_account`
        if self._delegation is not None:
            self._session = self._checked_session(self._delegation, genesis, key, inception)
        elif not speaks_for(inception, key.public):
            raise InvalidInput("key= is not the key that account= was born with")
        return inception

    async def _check_account(self, genesis: Genesis, key: Key, inception: Inception, wallet: Wallet) -> None:
        """Whether `key` can speak for an account whose key can change; the ledger is asked if it must be."""
        if not can_change(inception):
            return
        if self._delegation is not None:
            with contextlib.suppress(BadSignature):  # sealed by a key that is not in the inception
                self._session = self._checked_session(self._delegation, genesis, key, inception)
                return
        elif speaks_for(inception, key.public):
            return
        await wallet.balance()  # the account is known then
        if self._delegation is not None:
            self._session = self._checked_session(self._delegation, genesis, key, inception, wallet.account)
        elif not speaks_for(wallet.account, key.public):
            raise InvalidInput(
                "key= is neither the key of account=, as it was born or as it is now, nor the next one that "
                "it commits to: others would not believe its cards"
            )

    def _checked_session(
        self,
        delegation: SignedDelegation,
        genesis: Genesis,
        key: Key,
        inception: Inception,
        account: Account | None = None,
    ) -> Delegation:
        now_ms = self._context.now_ms()
        return check_session(delegation, inception, key.public, genesis.network_id, now_ms, account)

    async def _take_purse(self, network: Network, genesis: Genesis, wallet: Wallet) -> None:
        """On a development network: once per peer, and free. Without a faucet an agent can still earn."""
        faucet = faucet_peer(genesis)
        if faucet is None or (await wallet.balance()).total:
            return
        peer, addresses = faucet
        network.add_addresses(peer, addresses)
        try:
            await ask_purse(network, peer, wallet.account_id)
            await wallet.refresh()
        except (NetworkError, Refused) as exc:
            log.warning("agent %r got no purse from the development network's faucet: %s", self.name, exc)

    async def _open_model(self, stack: AsyncExitStack, model: str | Model) -> Model:
        if not isinstance(model, str):
            return model
        from ainp2p.agents.models.process import open_model

        return await stack.enter_async_context(open_model(model))

    def _libp2p(self, key: Key) -> AbstractAsyncContextManager[Network]:
        from ainp2p.protocol.libp2p import open_network  # heavy: only when it is used

        return open_network(key, listen=self._listen, context=self._context)


async def _connect(network: Network, addresses: Sequence[str]) -> list[PeerId]:
    """Dial them all at once; returns who was reached.

    Raises:
        NetworkError: nobody was.
        InvalidInput: one of them is no address.
    """
    reached: list[PeerId] = []
    failures: dict[str, Error] = {}

    async def connect(address: str) -> None:
        try:
            reached.append(await network.connect(address))
        except Error as exc:
            failures[address] = exc

    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(connect, address)
    for failure in failures.values():
        if not isinstance(failure, NetworkError):
            raise failure
    if addresses and not reached:
        told = "; ".join(f"{address}: {failure}" for address, failure in sorted(failures.items()))
        raise NetworkError(f"no bootstrap peer can be reached: {told}")
    return sorted(reached)


def _watchtower(where: str) -> PeerId:
    """The peer id at the end of an address, or by itself.

    Raises:
        InvalidInput: there is none.
    """
    peer = where.rpartition("/p2p/")[2]
    public_from_peer_id(peer)
    return peer


def _price(limit: str | Price | None) -> Price | None:
    return Price.parse(limit) if isinstance(limit, str) else limit


@dataclass(frozen=True, slots=True)
class _Running:
    """The parts of an open agent."""

    network: Network
    genesis: Genesis
    vault: Vault
    wallet: Wallet
    purse: Wallet
    models: tuple[Model, ...]
    directory: Directory
    seller: Seller
    buyer: Buyer
    standing: Standing
    draft: Callable[[], CardDraft]


async def _settle_up(wallet: Wallet) -> None:
    """End the Locks that pay us: the next time we could not go on with them, since tills are not kept.

    What cannot be done in time waits on the disk for ``ainp2p wallet settle``.
    """
    in_peace = trio.current_effective_deadline() > -math.inf  # else whoever cancels us ends all else as well
    with trio.CancelScope(deadline=trio.current_time() + SETTLE_UP_S, shield=True):
        with contextlib.suppress(Error, ExceptionGroup):
            await wallet.close_all()
    ours = [lock for lock in wallet.paying_locks() if wallet.is_closer(lock)]
    if in_peace and (owed := sum(wallet.unsettled(lock.id) for lock in ours)):
        log.warning("%d uain that were earned are not settled: open this agent or its wallet again", owed)
