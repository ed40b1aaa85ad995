"""Crowds of SkyWalker's evaluation: people who talk and programs that search trees, each waiting for its answers.

Here: `Talkers` (WildChat, Chatbot Arena), `Searchers` (Tree of Thoughts), `crowd`, which makes one by name. Not here: the loop that they
drive (`hanse.twin.closed`), fleets and figures (`multisite`).

What is from where. The loops are those of the authors' load generator, `sky/lbbench` in skypilot-org/skypilot, branch
serve-multi-region-lb: a client sends the next turn as soon as it was answered, at most 512 tokens an answer, and begins its next
conversation when one is over; WildChat only conversations of two turns and more; a tree has four levels (plan, carry out, judge,
conclude), all branches of a level at once. Clients a region there: WildChat 40, 30, 30; Arena 80, 80, 80; trees of two branches 40, 20,
20, of four branches 2, 2, 2; 8 to 12 replicas. Texts are not shipped, so lengths are drawn:

* WildChat: 2.52 turns a conversation (the geometric law of that mean, two and more kept: mean 3.52), a turn of the user 295.6 tokens with
  a standard deviation of 1,609, an answer 441.3 with 410.9 (Zhao et al., ICLR 2024, arXiv 2405.01470, table of basic statistics).
* Arena: 2.0 turns, 69.5 tokens in and 214.5 out on average (Zheng et al., LMSYS-Chat-1M, ICLR 2024, arXiv 2309.11998, the same site);
  the spread of the prompts as in WildChat's table for it, 143.5; that of the answers is taken to be their mean.
* Trees: GSM8K's questions have 46.9 words on average (Cobbe et al., arXiv 2110.14168) and the generator's four prompts 62, 38, 27 and 22;
  at 1.3 tokens a word. Answers: 80 words are asked for the plan; the other three lengths are guesses of what an 8B model writes.

Every client has random numbers of its own: what it says does not depend on what others do, so all policies get the same texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hanse.twin.closed import Ask

BLOCK_TOKENS = 16
"""As vLLM and llm-d: the smallest prefix that is found again."""
ANSWER_MAX = 512
PROMPT_MAX = 6144
"""A turn that would make the prompt longer ends the conversation: half of what an L4 holds beside the model is one request's at most."""
BLOCKS_A_TEXT = 4096
TREE_TOKENS = ((24 + 81 + 61, 104), (49, 160), (35, 200), (29, 160))
"""(added by the prompt, median of the answer) of each level; the first has the chat template, the words and the question."""
TREE_SHARED = tuple(range(1, (24 + 81) // BLOCK_TOKENS + 1))
"""Blocks of the template and of the words before the question: the same in all trees."""
ANSWER_SIGMA = 0.4


class Spread(NamedTuple):
    """A lognormal law by its mean and standard deviation."""

    mean: float
    deviation: float

    def draw(self, random: np.random.Generator, most: int) -> int:
        square = math.log(1.0 + (self.deviation / self.mean) ** 2)
        found = random.lognormal(math.log(self.mean) - 0.5 * square, math.sqrt(square))
        return int(min(max(found, 1.0), most))


class Talk(NamedTuple):
    """What conversations are like."""

    turns_mean: float
    turns_min: int
    prompt: Spread
    answer: Spread


WILDCHAT = Talk(2.52, 2, Spread(295.58, 1609.18), Spread(441.34, 410.91))
ARENA = Talk(2.0, 1, Spread(69.5, 143.49), Spread(214.5, 214.5))


class Talkers:
    """People: one conversation after another, each turn with everything said so far."""

    def __init__(self, origins: Sequence[int], talk: Talk, seed: int) -> None:
        """One client for each entry of `origins`."""
        self.talk = talk
        self.origins = list(origins)
        self.random = [np.random.default_rng((seed, 1, i)) for i in range(len(origins))]
        self.state: list[Any] = [None] * len(origins)

    def begin(self) -> list[tuple[float, Ask]]:
        """All within the first ten seconds: a crowd that begins in one instant is an artefact."""
        return [(float(r.uniform(0.0, 10.0)), self._next(i)) for i, r in enumerate(self.random)]

    def ended(self, key: Any, answered: bool) -> list[Ask]:
        client, tokens = key
        left, said, text, number = self.state[client]
        self.state[client] = (left - 1, said + tokens, text, number) if answered else None
        return [self._next(client)]

    def _next(self, client: int) -> Ask:
        random, talk = self.random[client], self.talk
        prompt = talk.prompt.draw(random, PROMPT_MAX)
        state = self.state[client]
        if state is None or state[0] == 0 or state[1] + prompt > PROMPT_MAX:
            turns = int(random.geometric(1.0 / talk.turns_mean))
            while turns < talk.turns_min:
                turns = int(random.geometric(1.0 / talk.turns_mean))
            number = 0 if state is None else state[3] + 1
            state = turns, 0, (client + 1) * 65_536 + number, number
        left, said, text, number = state
        said += prompt
        self.state[client] = left, said, text, number
        answer = talk.answer.draw(random, ANSWER_MAX)
        blocks = range(text * BLOCKS_A_TEXT, text * BLOCKS_A_TEXT + (said + answer) // BLOCK_TOKENS)
        return Ask((client, answer), self.origins[client], said, answer, blocks)


class Node(NamedTuple):
    """One thought: its prompt and its answer."""

    client: int
    level: int
    tokens: int
    blocks: tuple[int, ...]


class Searchers:
    """Programs: one tree after another, all thoughts of a level at once."""

    def __init__(self, origins: Sequence[int], branches: Sequence[int], seed: int) -> None:
        self.origins = list(origins)
        self.branches = list(branches)
        self.random = [np.random.default_rng((seed, 2, i)) for i in range(len(origins))]
        self.running = [0] * len(origins)
        self.texts = [0] * len(origins)

    def begin(self) -> list[tuple[float, Ask]]:
        sent = []
        for i, random in enumerate(self.random):
            at_s = float(random.uniform(0.0, 10.0))
            sent += [(at_s, ask) for ask in self._tree(i)]
        return sent

    def ended(self, key: Any, answered: bool) -> list[Ask]:
        node: Node = key
        self.running[node.client] -= 1
        asks = []
        if answered and node.level + 1 < len(TREE_TOKENS):
            asks = self._thoughts(node.client, node)
        if self.running[node.client] == 0:
            asks = self._tree(node.client)
        return asks

    def _tree(self, client: int) -> list[Ask]:
        return self._thoughts(client, None)

    def _thoughts(self, client: int, parent: Node | None) -> list[Ask]:
        """The branches below a thought; they share its whole prompt and answer, and the words that ask for them."""
        random = self.random[client]
        level = 0 if parent is None else parent.level + 1
        before = parent.blocks if parent is not None else TREE_SHARED
        added, answer_mean = TREE_TOKENS[level]
        tokens = added if parent is None else parent.tokens + added
        prompt = before + self._ids(client, len(before), tokens)
        asks = []
        for _ in range(self.branches[client]):
            drawn = int(answer_mean * random.lognormal(0.0, ANSWER_SIGMA))
            answer = min(max(drawn, 1), ANSWER_MAX)
            blocks = prompt + self._ids(client, len(prompt), tokens + answer)
            node = Node(client, level, tokens + answer, blocks)
            asks.append(Ask(node, self.origins[client], tokens, answer, blocks))
        self.running[client] += len(asks)
        return asks

    def _ids(self, client: int, begin: int, tokens: int) -> tuple[int, ...]:
        """New whole blocks up to so many tokens."""
        self.texts[client] += 1
        text = (client + 1) * 1_048_576 + self.texts[client]
        return tuple(text * BLOCKS_A_TEXT + i for i in range(begin, tokens // BLOCK_TOKENS))


CROWDS = {
    "wildchat": (40, 30, 30, 30, 30),
    "arena": (80, 80, 80, 80, 80),
    "tree2": (40, 20, 20, 20, 20),
    "tree4": (2, 2, 2, 2, 2),
}
"""Clients by region, the first two as the authors' first two regions and every further one as their last."""


def crowd(kind: str, scale: float, seed: int) -> Any:
    """A crowd by name; `scale` times the clients."""
    origins = [o for o, n in enumerate(CROWDS[kind]) for _ in range(max(1, round(n * scale)))]
    if kind.startswith("tree"):
        return Searchers(origins, [int(kind[-1])] * len(origins), seed)
    return Talkers(origins, WILDCHAT if kind == "wildchat" else ARENA, seed)
