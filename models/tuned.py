"""A frozen model with one adapter on its upper layers: what it says, where it stands, how far it is from the base.

Rows that begin alike (the system's message) are packed behind one copy of that beginning; what the frozen lower layers
make of a row is computed once and kept. Learning is `training`.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from models import codebook as codebooks
from models import gate as gates
from models import spectrum
from models.batch_decoding import decode
from models.chat_template import ChatTemplate
from models.codebook import Codebook, only_at_ends
from models.gate import Gate
from models.language import Message
from models.packed_linear import PackedLinear, packing_works
from models.packed_rows import Layout, PackedRows
from models.recipe import Recipe
from models.rows import Row
from models.trainable import Trainable
from models.transformers_forward import PACKED

Who = Literal["candidate", "current", "base"]
"""Which weights speak: those in training, an adapter that was loaded beside them, or neither."""
Blur = Callable[[Tensor, Row], None]
"""Blurs an example's question in place, given what enters the first trained layer of the row, [tokens, width]."""


@dataclass(slots=True)
class _Pack:
    hidden: Tensor
    """[1, tokens, width]: what enters the first trained layer."""
    layout: PackedRows
    places: Tensor
    """Where the targets are predicted."""
    borders: list[int]
    """How many targets each row has."""
    marked: Tensor
    """[1, tokens]: after which of what was not said by the model itself a reply may begin."""
    follows: Tensor
    """[tokens]: of a reply, the place where its prompt ends, which is the first of them; -1 of everything else."""


class Forced(NamedTuple):
    """What is added instead of what is looked up, while it is learnt."""

    places: Tensor
    """In the rows, one after another."""
    added: Tensor
    """[places, width]."""
    replies: Tensor
    """Of each token, whether it is of a reply that says it, or where its prompt ends: bool."""


class Tuned:
    """One model, frozen, with one adapter on its upper layers. Takes the model for itself.

    `start`: an adapter's folder to go on from; its rank and layers then hold, not the recipe's.
    """

    def __init__(self, trainable: Trainable, recipe: Recipe, *, start: Path | None = None) -> None:
        from peft import LoraConfig, PeftModel, get_peft_model

        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self._trainable = trainable
        self._prefix = _shared_beginning(trainable.template)
        model = trainable.model
        layers = model.config.num_hidden_layers
        self.layers: int = layers
        self.first: int = layers - max(1, round(layers * recipe.trained_share))
        model.requires_grad_(False)
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=0.0,
            bias="none",
            use_rslora=recipe.method == "rslora",
            use_dora=recipe.method == "dora",
            target_modules=_targets(recipe, self.first, layers) if recipe.upper_targets else list(recipe.targets),
            layers_to_transform=None if recipe.upper_targets else list(range(self.first, layers)),
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():  # peft asks transformers by a name that is going out of use
            warnings.simplefilter("ignore", FutureWarning)
            self.peft = (
                get_peft_model(model, config, adapter_name="candidate")
                if start is None
                else PeftModel.from_pretrained(model, str(start), adapter_name="candidate", is_trainable=True)
            )
        if start is not None:
            named = ((_LAYER.search(name), module) for name, module in self.peft.named_modules())
            self.first = min(int(at[1]) for at, module in named if at and hasattr(module, "lora_A"))
        base: Any = self.peft.get_base_model()
        self._body, self._head = base.model, base.lm_head
        self._device = next(self._head.parameters()).device
        self._dtype = self._head.weight.dtype
        self._packed = recipe.pack_tokens * (1 if self._device.type == "cpu" else _LONGER_ON_GPU)
        self._gates: dict[str, tuple[Gate, ...]] = {}
        self._open: dict[str, Tensor] = {}
        """How far each gated adapter acts on each token of the pass under way."""
        self._books: dict[str, Codebook] = {}
        self._who: Who = "candidate"
        self._mark = (trainable.template.chat_ids([Message(role="user", content="-")]) or [0])[-1]
        self._marked: Tensor | None = None
        """Where codebooks look in the pass under way."""
        self._denial = 0.0
        """By how many nats denial counts for more where a prompt ends, in the pass under way."""
        self._leads: list[float] | None = None
        """How much nearer the nearest answer was than denial (codebook.Found), of each prompt that was read since."""
        self._forced: Forced | None = None
        self._follows: Tensor | None = None
        """Which replies follow which place (_Pack), where they are read with it."""
        self._by_heart: Tensor | None = None
        """[rows, 1]: which of the rows that are being decoded say what was found for their prompts."""
        self._body.register_forward_pre_hook(self._comes_in, with_kwargs=True)
        if start is not None:
            self._have_gates("candidate", gates.read(start, id="candidate"))
            self._have_codebook("candidate", codebooks.read(start, id="candidate"))
        self._asked: dict[str, Row] = {}
        self._lower: dict[Row, Tensor] = {}
        self._lower_prefix: Tensor | None = None

    def row(self, said: str, reply: str, *, before: Sequence[Message] = ()) -> Row:
        """The example that `reply` is to follow what was said."""
        template = self._trainable.template
        prompt = template.chat_ids([*before, Message(role="user", content=said)]) or []
        target = [*template.encode_plain(reply), *template.closing_ids()[:1]]
        start = len(self._prefix)
        assert prompt[:start] == self._prefix
        return Row(token_ids=(*prompt[start:], *target), target_from=len(prompt) - start)

    def load_current(self, folder: Path) -> None:
        """Load another adapter beside the one in training, to be asked the same."""
        self.peft.load_adapter(str(folder), adapter_name="current", is_trainable=False)
        self.peft.set_adapter("candidate")
        self._have_gates("current", gates.read(folder, id="current"))
        self._have_codebook("current", codebooks.read(folder, id="current"))

    def _have_gates(self, name: str, gates: Sequence[Gate]) -> None:
        """Let an adapter act only as far as its gates are open."""
        if not gates:
            return
        self._gates[name] = tuple(gate.to(self._device) for gate in gates)
        for gate in self._gates[name]:
            self._ask(gate, name, first=gate is self._gates[name][0])

        def act(_: Any, __: Any, added: Tensor) -> Tensor:
            return added * self._open[name].to(added.dtype)

        for layer in self._adapted(name):
            layer.lora_B[name].register_forward_hook(act)

    def _ask(self, gate: Gate, name: str, *, first: bool) -> None:
        def judge(_: Any, inputs: Any, named: Any) -> None:
            judged = gate(inputs[0] if inputs else named["hidden_states"])
            self._open[name] = judged if first else self._open[name] * judged

        self._body.layers[gate.layer].register_forward_pre_hook(judge, with_kwargs=True)

    def _have_codebook(self, name: str, book: Codebook | None) -> None:
        """Let an adapter look up what to say."""
        if book is None:
            return
        known, self._books[name] = name in self._books, book.to(self._device)
        if known:  # it is looked up wherever the one before was
            return

        def look_up(_: Any, inputs: Any, named: Any) -> Any:
            hidden = inputs[0] if inputs else named["hidden_states"]
            if self._forced is not None and name == "candidate":
                places, added, replies = self._forced
                flat = hidden.flatten(0, 1).index_add(0, places, added.to(hidden.dtype))
                hidden = flat.view_as(hidden)
                self._act_wholly(name, replies)
            elif name not in self._books or self._who != name:
                pass
            elif self._marked is None:
                if self._by_heart is not None:
                    self._act_wholly(name, self._by_heart)
            elif self._marked.any():
                hidden = hidden.clone()
                share = self._open[name][self._marked] if name in self._gates else None
                places = self._marked.nonzero()[:, 1]
                at_end = places == (self._marked.shape[1] - 1 if self._follows is None else self._follows[places])
                share = None if share is None else only_at_ends(share, at_end)
                last = self._marked.sum(-1).cumsum(0) - 1  # of what is marked, each row's last
                denial = torch.zeros(int(last[-1]) + 1, device=hidden.device)
                denial[last] = self._denial
                found = self._books[name](hidden[self._marked], share, denial)
                hidden[self._marked] += found.added
                said = torch.zeros_like(self._marked)
                said[self._marked] = found.said
                if self._follows is None:
                    self._by_heart = said[:, -1:]
                    self._act_wholly(name, F.pad(self._by_heart, (hidden.shape[1] - 1, 0)))
                else:
                    self._act_wholly(name, (self._follows >= 0) & said[0, self._follows])
                if self._leads is not None:
                    self._leads += found.lead[last].tolist()
            return ((hidden, *inputs[1:]), named) if inputs else (inputs, {**named, "hidden_states": hidden})

        self._body.layers[book.layer].register_forward_pre_hook(look_up, with_kwargs=True)

    def _act_wholly(self, name: str, where: Tensor) -> None:
        """From here on up, an adapter acts wholly on these tokens: they say what its codebook found."""
        if name in self._open:
            self._open[name] = self._open[name].masked_fill(where.view(self._open[name].shape), 1.0)

    def _comes_in(self, _: Any, inputs: Any, named: Any) -> None:
        """A prompt is looked at, a token that was said is not."""
        ids = inputs[0] if inputs else named["input_ids"]
        if ids.shape[-1] > 1:
            self._marked, self._follows, self._by_heart = ids == self._mark, None, None
        else:
            self._marked = None

    def _go_on_with(self, rows: Tensor) -> None:
        """Of the rows that are being decoded, only these."""
        if self._by_heart is not None:
            self._by_heart = self._by_heart[rows]

    def scale(self, by: float, *, answers: float | None = None) -> None:
        """Have the adapter change the model by so much of what it did, and answer as readily as so much of it would.

        Without a codebook its part in every product is made the lesser of both (`answers`: as `by`). With one, whose
        entries are put in words wholly or not at all, the gates are shut further, and denial counts for more: what
        leads by more than that is still said.
        """
        answers = by if answers is None else answers
        if "candidate" in self._books:
            self._books["candidate"].warier(_WARIER * (1 - answers))
            for gate in self._gates.get("candidate", ()):
                gate.shut(_SHUT * (1 - by))
            return
        with torch.no_grad():
            for name, parameter in self.peft.named_parameters():
                if ".lora_B.candidate." in name:
                    parameter.mul_(min(by, answers))

    @contextmanager
    def _speaking(self, who: Who) -> Iterator[None]:
        self._who = who
        try:
            if who == "base":
                with self.peft.disable_adapter():
                    yield
            else:
                if who == "current":
                    self.peft.set_adapter("current")
                yield
        finally:
            self._who = "candidate"
            if who == "current":
                self.peft.set_adapter("candidate")

    def replies(
        self,
        questions: Sequence[str],
        *,
        most: int,
        who: Who = "candidate",
        batch: int | None = None,
        begun: Sequence[str] = (),
        temperature: float = 0.0,
    ) -> list[str]:
        """What the model says to each question by itself, at most `most` tokens; greedy at temperature 0.

        `begun`: how each reply begins; the rest is returned. `batch`: so many at once; None: as suits the device.
        """
        batch = batch or (_AT_ONCE if self._device.type == "cpu" else _AT_ONCE_ON_GPU)
        template = self._trainable.template
        prompts = [template.chat_ids([Message(role="user", content=q)]) or [] for q in questions]
        if begun:
            prompts = [[*p, *template.encode_plain(b)] for p, b in zip(prompts, begun, strict=True)]
        made: list[str] = []
        while len(made) < len(prompts):
            try:
                with self._speaking(who):
                    some = decode(
                        self.peft,
                        prompts[len(made) : len(made) + batch],
                        most=most,
                        stop_ids=self._trainable.stop_ids,
                        temperature=temperature,
                        kept=self._go_on_with,
                    )
            except torch.cuda.OutOfMemoryError:
                if batch == 1:
                    raise
                batch //= 2
                if self._leads is not None:
                    del self._leads[len(made) :]
                continue
            finally:
                self._by_heart = None
            made += map(self._trainable.decode, some)
        return made

    def heard(
        self, questions: Sequence[str], *, most: int, who: Who = "candidate", denial: float = 0.0
    ) -> list[tuple[str, float | None]]:
        """What the model says to each question, as `replies`, and by how much the nearest answer of its codebook leads
        denial, in nats; None: it is none of its business, or there is no codebook.

        `denial`: nats by which that is to count for more.
        """
        template = self._trainable.template
        ids = [tuple(template.chat_ids([Message(role="user", content=q)]) or ()) for q in questions]
        once = dict(zip(ids, questions, strict=True))  # what stands there more than once is read once
        self._denial, self._leads = denial, []
        try:
            said = self.replies(list(once.values()), most=most, who=who)
            leads = [None if math.isnan(lead) else lead for lead in self._leads] or [None] * len(once)
        finally:
            self._denial, self._leads = 0.0, None
        found = dict(zip(once, zip(said, leads, strict=True), strict=True))
        return [found[prompt] for prompt in ids]

    def beginning_of(self, text: str, tokens: int) -> str:
        """So many of its first tokens."""
        return self._trainable.decode(self._trainable.template.encode_plain(text)[:tokens])

    def leanings(self, questions: Sequence[str], *, to: str, rather_than: str) -> list[float]:
        """How much likelier the reply to each question begins one way than another: a difference of logits, in nats."""
        one, other = (self._trainable.template.encode_plain(reply)[0] for reply in (to, rather_than))
        found: list[float] = []
        with torch.no_grad():
            for group in self._grouped([self.row(question, "") for question in questions]):
                self.remember_lower(group)
                begun = self._logits(self._pack(group))  # one place a row: where its reply begins
                found += (begun[:, one] - begun[:, other]).tolist()
                for row in group:
                    self._lower.pop(row, None)
        return found

    def states(self, questions: Sequence[str], *, below: int) -> Tensor:
        """[questions, width], float32: what enters layer `below`, a trained one, where the reply to each begins."""
        for question in questions:
            if question not in self._asked:  # rendering the template takes longer than the layers do on a GPU
                self._asked[question] = self.row(question, "")
        rows = [self._asked[question] for question in questions]
        self.remember_lower(rows)
        if self._device.type == "cuda":
            return self._states_padded(rows, below)
        found = []
        for group in self._grouped(rows):
            pack = self._pack(group)
            found.append(self._reaching(pack, below)[0, pack.places].float())
        return torch.cat(found)

    def _states_padded(self, rows: Sequence[Row], below: int) -> Tensor:
        """The same with rows side by side, which a GPU has done three times as soon as packed ones."""
        assert self._lower_prefix is not None
        self._marked = None
        read = [torch.cat([self._lower_prefix, self._lower[row][: row.target_from]]) for row in rows]
        ends = torch.tensor([len(of) - 1 for of in read], device=self._device)
        hidden = torch.nn.utils.rnn.pad_sequence(read, batch_first=True)
        with self._precisely():
            hidden = self._through_padded(hidden, self.first, below)
        return hidden[torch.arange(len(rows), device=self._device), ends].float()

    def merge(self) -> None:
        """Add the adapter to the weights, for a writer that only speaks: a third faster, and never to be trained."""
        assert not self._gates
        self.peft.merge_and_unload()  # in place: without wrappers, whose Python takes as long as few rows do
        self.pack()

    def pack(self) -> None:
        """Lay out what is frozen as it is read fastest, from now on for reading and speaking alone.

        On a CPU a product of few rows takes two thirds to a third of the time. No further adapter may be loaded, and
        nothing trained, scaled or measured by its weights.
        """
        if self._device.type != "cpu" or self.recipe.method == "dora" or not packing_works(self._dtype):
            return
        for parent in list(self._body.layers.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear and not isinstance(parent, nn.ModuleDict):  # which holds adapters' own
                    setattr(parent, name, PackedLinear(child.weight, child.bias))
        base: Any = self.peft.get_base_model()
        base.lm_head = self._head = PackedLinear(self._head.weight, self._head.bias)

    def save(self, folder: Path) -> None:
        """Write the adapter as peft's files, in float32, and its gate and codebook beside them."""
        self.peft.save_pretrained(str(folder), safe_serialization=True, selected_adapters=["candidate"])
        inner = folder / "candidate"  # where peft puts all but its default
        for file in inner.iterdir():
            file.replace(folder / file.name)
        inner.rmdir()
        gates.save(self._gates.get("candidate", ()), folder)
        if "candidate" in self._books:
            self._books["candidate"].save(folder)

    def drift(self, rows: Sequence[Row], *, who: Who = "candidate") -> float:
        """KL of the adapted model from the base on the rows' targets, in nats per token."""
        self.remember_lower(rows)
        total, tokens = 0.0, 0
        with torch.no_grad():
            for group in self._grouped(rows):
                pack = self._pack(group)
                with self._speaking("base"):
                    base = self._log_probabilities(pack)
                with self._speaking(who):
                    adapted = self._log_probabilities(pack)
                total += float((base.exp() * (base - adapted)).sum())
                tokens += len(base)
        return total / max(1, tokens)

    def norm(self, *, beyond: Path | None = None) -> float:
        """How large the adapter is beside the weights that it is on (models/spectrum.py); `beyond` another, by how much
        they differ."""
        before = {} if beyond is None else load_file(beyond / "adapter_model.safetensors", device=str(self._device))
        return spectrum.norm(
            (
                layer.base_layer.weight,
                _beside(layer.lora_A["candidate"].weight, before.get(f"{name}.lora_A.weight"), dim=0),
                _beside(layer.lora_B["candidate"].weight, before.get(f"{name}.lora_B.weight"), dim=1, sign=-1)
                * layer.scaling["candidate"],
            )
            for name, layer in self.peft.named_modules()
            if "candidate" in getattr(layer, "lora_A", ())
        )

    @property
    def dtype(self) -> str:
        """Of the weights, by name."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""
        return sum(p.numel() for p in self.peft.parameters() if p.requires_grad)

    def remember_lower(self, rows: Sequence[Row]) -> None:
        """Compute what enters the first trained layer for each row, once."""
        with torch.no_grad():
            for group in self._grouped([r for r in dict.fromkeys(rows) if r not in self._lower]):
                token_ids = [*self._prefix, *(t for row in group for t in row.token_ids)]
                hidden = self._body.embed_tokens(torch.tensor([token_ids], device=self._device))
                hidden = self._through(hidden, self._layout(group), 0, self.first)
                start = len(self._prefix)
                if self._lower_prefix is None:
                    self._lower_prefix = hidden[0, :start].clone()
                for row in group:
                    self._lower[row] = hidden[0, start : start + len(row.token_ids)].clone()
                    start += len(row.token_ids)

    def _adapted(self, name: str = "candidate") -> list[Any]:
        """The layers that an adapter is on."""
        return [m for m in self.peft.modules() if name in getattr(m, "lora_A", ())]

    def _reaching(self, pack: _Pack, layer: int) -> Tensor:
        """[1, tokens, width]: what enters a trained layer."""
        self._marked, self._follows = pack.marked, pack.follows
        with self._precisely():
            return self._through(pack.hidden, pack.layout, self.first, layer)

    def _logits(self, pack: _Pack) -> Tensor:
        with self._precisely():
            hidden = self._reaching(pack, len(self._body.layers))
            logits: Tensor = self._head(self._body.norm(hidden[0, pack.places]))
        return logits.float()

    def _precisely(self) -> Any:
        """Products in the weights' dtype, the adapter's numbers in float32."""
        half = self._dtype is torch.bfloat16
        # Nothing is cast twice in a pass, and what was kept of it would outlive the recording of a graph.
        return torch.autocast(self._device.type, torch.bfloat16, enabled=half, cache_enabled=False)

    def _log_probabilities(self, pack: _Pack) -> Tensor:
        return F.log_softmax(self._logits(pack), dim=-1)

    def _through(self, hidden: Tensor, layout: Layout, start: int, end: int) -> Tensor:
        positions = layout.positions
        embeddings = self._body.rotary_emb(hidden, positions)
        with self._attending(PACKED):
            for layer in self._body.layers[start:end]:
                out = layer(
                    hidden,
                    attention_mask=None,
                    position_ids=positions,
                    position_embeddings=embeddings,
                    use_cache=False,
                    packed=layout,
                )
                hidden = out[0] if isinstance(out, tuple) else out
        return hidden

    def _through_padded(self, hidden: Tensor, start: int, end: int) -> Tensor:
        """[rows, longest, width], beginning and all -> what leaves layer `end` - 1."""
        positions = torch.arange(hidden.shape[1], device=self._device)[None]
        embeddings = self._body.rotary_emb(hidden, positions)
        with self._attending("sdpa"):
            for layer in self._body.layers[start:end]:
                out = layer(
                    hidden,
                    attention_mask=None,  # causal; what pads a row comes after it
                    position_ids=positions,
                    position_embeddings=embeddings,
                    use_cache=False,
                )
                hidden = out[0] if isinstance(out, tuple) else out
        return hidden

    @contextmanager
    def _attending(self, how: str) -> Iterator[None]:
        config = self._body.config
        before, config._attn_implementation = config._attn_implementation, how
        try:
            yield
        finally:
            config._attn_implementation = before

    def _grouped(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Rows that are packed together, in order."""
        group: list[Row] = []
        size = len(self._prefix)
        for row in rows:
            if group and size + len(row.token_ids) > self._packed:
                yield group
                group, size = [], len(self._prefix)
            group.append(row)
            size += len(row.token_ids)
        if group:
            yield group

    def _layout(self, rows: Sequence[Row]) -> PackedRows:
        return PackedRows.of(len(self._prefix), [len(r.token_ids) for r in rows], self._device)

    def _pack(self, rows: Sequence[Row], *, blur: Blur = lambda hidden, row: None, held: Collection[Row] = ()) -> _Pack:
        """`blur`: of all but what is held."""
        assert self._lower_prefix is not None
        hidden = torch.cat([self._lower_prefix, *(self._lower[r] for r in rows)])[None]
        places: list[int] = []
        follows = [-1] * len(self._prefix)
        marked = [n for n, token in enumerate(self._prefix) if token == self._mark]
        start = len(self._prefix)
        for row in rows:
            marked += [start + n for n, token in enumerate(row.token_ids[: row.target_from]) if token == self._mark]
            places += range(start + row.target_from - 1, start + len(row.token_ids) - 1)
            follows += [-1] * (row.target_from - 1)
            follows += [start + row.target_from - 1] * (len(row.token_ids) - row.target_from + 1)
            if row not in held:
                blur(hidden[0, start:], row)
            start += len(row.token_ids)
        return _Pack(
            hidden=hidden,
            layout=self._layout(rows),
            places=torch.tensor(places, device=self._device),
            borders=[len(r.token_ids) - r.target_from for r in rows],
            marked=torch.zeros(1, start, dtype=torch.bool).index_fill_(1, torch.tensor(marked), True).to(self._device),
            follows=torch.tensor(follows, device=self._device),
        )


_WARIER, _SHUT = 10.0, 5.0
"""Nats by which denial has to be left behind in addition, and by which gates are shut, were nothing kept."""
_LONGER_ON_GPU = 8
"""Times as many tokens in one packed row: a GPU waits for Python where they are few."""
_AT_ONCE, _AT_ONCE_ON_GPU = 96, 256
"""Replies that are written at the same time."""


def _beside(now: Tensor, before: Tensor | None, *, dim: int, sign: int = 1) -> Tensor:
    """Halves of two products, for their sum; `sign` -1: for their difference."""
    return now if before is None else torch.cat([now, sign * before.to(now)], dim=dim)


_LAYER = re.compile(r"\.layers\.(\d+)\.")


def middle(first: int, layers: int, share: float = 0.75) -> int:
    """The layer before which so many of the trained ones lie: where wordings are compared, and entries looked up."""
    return first + max(1, round((layers - first) * share))


def _targets(recipe: Recipe, first: int, layers: int) -> str:
    """A pattern of the linears that an adapter is on."""
    upper = middle(first, layers)
    all_, more = ("|".join(names) for names in (recipe.targets, recipe.upper_targets))
    below, above = ("|".join(map(str, range(*of))) for of in ((first, layers), (upper, layers)))
    return rf".*\.layers\.(?:(?:{below})\.\w+\.(?:{all_})|(?:{above})\.\w+\.(?:{more}))"


def _shared_beginning(template: ChatTemplate) -> list[int]:
    """The tokens with which every chat of one message begins."""
    one, other = (template.chat_ids([Message(role="user", content=c)]) or [] for c in ("A", "b"))
    return one[: next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)]
