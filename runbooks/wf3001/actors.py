"""What an actor makes of a posting: plain text processing that runs anywhere, or a prompt to a model of Ollama.

IHL is the likelihood, 0-100, that a posting was written for somebody who is already inside ("internal hire likely").
"""

from __future__ import annotations

import html
import http.client
import json
import re
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

Result = str | int | list[str]

STOPWORD = re.compile(
    "a|about|all|an|and|are|as|at|be|but|by|can|do|find|for|from|has|have|how|if|in|is|it|its|keep|look|make|no|not|of"
    "|on|one|only|or|our|out|so|that|the|their|them|they|this|to|up|us|was|we|what|when|where|which|who|why|will|with"
    "|within|without|you|your|apprenticeship|careful|complete|degree|experience|good|knowledge|required|sound|years",
    re.IGNORECASE,
)
SKILL_CUES = ("experience", "knowledge", "proficien", "familiar", "skill", "certif")
IHL_SIGNALS = {
    r"internal (candidates|applicants)": 35,
    r"in-house|our own system": 20,
    r"current post holder|successor|you succeed": 20,
    r"deadline .{0,30}\b(days?|tomorrow)": 15,
    r"\b[5-9] years of experience": 5,
    r"one click": -10,
    r"career changers?": -10,
    r"several positions|will train you": -15,
}
PROMPTS = {
    "summary": "Summarise this job posting in at most three sentences. Answer with the summary alone.",
    "skills": "List the skills that this job posting asks for, at most eight, one per line, without numbering.",
    "ihl": "How likely, 0 to 100, was this posting written for an internal candidate? Answer with the number alone.",
}


class Unprocessable(ValueError):
    """A posting, or a model's answer, that the actor can make nothing of."""


@dataclass(frozen=True)
class Posting:
    posting_id: int
    title: str
    description: str


Actor = Callable[[Posting], Result]


def clean(text: str) -> str:
    """Text without tags and control characters; line breaks stay."""
    text = html.unescape(re.sub(r"</?[a-zA-Z][^<>]*>", " ", text))
    text = re.sub(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\))", "", text)
    return re.sub(r"[^\S\n]+", " ", "".join(c if c.isprintable() or c == "\n" else " " for c in text)).strip()


def words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w[\w+#-]*", text.lower()) if not STOPWORD.fullmatch(word)]


def sentences(posting: Posting) -> list[str]:
    """Sentences and list items of the description, repeated ones once, in order."""
    parts = re.split(r"(?<=[.!?])\s+|\n+", clean(posting.description))
    found = [part for part in dict.fromkeys(part.strip(" -*#|\t") for part in parts) if words(part)]
    if not found:
        raise Unprocessable("the description has no words")
    return found


def summarise(posting: Posting) -> str:
    """The three sentences whose words matter most in the posting, in their order, at most 500 characters."""
    candidates = sentences(posting)
    counts = Counter(word for sentence in candidates for word in words(sentence))

    def weight(item: tuple[int, str]) -> float:
        place, sentence = item
        terms = words(sentence)
        lead = 1.5 if place == 0 else 1.0
        return lead * sum(counts[term] for term in terms) / (len(terms) + 3)

    best = sorted(enumerate(candidates), key=weight, reverse=True)[:3]
    return " ".join(sentence for _, sentence in sorted(best))[:500]


def phrases(sentence: str) -> list[str]:
    """Runs of up to three words with no stopword or punctuation between them."""
    found = []
    for part in re.split(r"[^\w\s+#'/-]+", sentence):
        for is_stopword, run in groupby(part.split(), key=lambda word: STOPWORD.fullmatch(word) is not None):
            terms = [term for term in run if not is_stopword and re.search(r"[^\W\d]", term)]
            if 1 <= len(terms) <= 3:
                found.append(" ".join(terms))
    return found


def keywords(posting: Posting) -> list[str]:
    """At most eight phrases, the most frequent first; from what is said of knowledge and experience if anything is."""
    everything = sentences(posting)
    cued = [sentence for sentence in everything if any(cue in sentence.lower() for cue in SKILL_CUES)]
    counts = Counter(phrase for sentence in cued or everything for phrase in phrases(sentence))
    return [phrase for phrase, _ in counts.most_common(8)]


def ihl_score(posting: Posting) -> int:
    """0-100 from the signals in the text, 30 where there is none."""
    text = " ".join(sentences(posting)).lower()
    score = 30 + sum(weight for pattern, weight in IHL_SIGNALS.items() if re.search(pattern, text))
    return max(0, min(100, score))


PLAIN: dict[str, Actor] = {"summary": summarise, "skills": keywords, "ihl": ihl_score}


def ollama_serves(host: str, model: str) -> bool:
    """Whether the server answers and has the model."""
    try:
        with urllib.request.urlopen(f"{host}/api/tags", timeout=3) as response:
            names = {entry["name"] for entry in json.load(response)["models"]}
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return False
    return model in names or f"{model}:latest" in names


def ollama_actor(host: str, model: str, stage: str) -> Actor:
    """An actor that asks the model, with settings that give the same answer to the same posting."""

    def ask(posting: Posting) -> Result:
        prompt = f"{PROMPTS[stage]}\n\n{clean(posting.title)}\n\n" + "\n".join(sentences(posting))
        body = {"model": model, "prompt": prompt, "stream": False, "options": {"temperature": 0, "seed": 1}}
        request = urllib.request.Request(
            f"{host}/api/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                answer = str(json.load(response)["response"])
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
            raise Unprocessable(f"no answer from {model}: {type(error).__name__}") from error
        return read_answer(stage, clean(answer))

    return ask


def read_answer(stage: str, answer: str) -> Result:
    """A model's answer as what the stage stores."""
    if not answer:
        raise Unprocessable("the model said nothing")
    if stage == "summary":
        return answer
    if stage == "skills":
        return [line.strip(" -*\t") for line in answer.splitlines() if line.strip(" -*\t")][:8]
    number = re.search(r"\d+", answer)
    if number is None or int(number[0]) > 100:
        raise Unprocessable("the model gave no score")
    return int(number[0])
