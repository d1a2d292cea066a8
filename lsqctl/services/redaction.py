r"""Take out of text what must not leave this machine: secrets, home folders, users, hosts.  Pure.

What is known to be secret goes wherever it stands; the rest goes by its form, and rather too much
of it than too little.

>>> redact = Redactor(KnownSecrets(users={"alice"}, homes={"/home/alice"})).redact_text
>>> redact("alice: /home/alice/x, postgresql://a:b@h/n, API_KEY=c, Bearer d1234567")
'<user>: ~/x, postgresql://a:***@h/n, API_KEY=*** Bearer ***'
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MASK = "***"
_PLACEHOLDER = "0kNOWN0sECRET0"  # stands for a known secret while patterns are applied
MIN_SECRET_LENGTH = 4  # what is shorter would take words apart, and is found by its form alone
MIN_NAME_LENGTH = 3
_GENERIC_NAMES = frozenset({"root", "localhost", "127.0.0.1"})  # names that say nothing


@dataclass(frozen=True, slots=True)
class KnownSecrets:
    """What is known to be private; ``host`` is this machine's name, ``hosts`` are others'."""

    secrets: frozenset[str] = frozenset()
    homes: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    host: str = ""
    hosts: frozenset[str] = frozenset()


class Redactor:
    """Replaces by ``***``, ``~``, ``<user>``, ``<host>``; other hosts are ``<host 2>``, …"""

    def __init__(self, known_secrets: KnownSecrets) -> None:
        self._secrets = _any_of(
            word for word in known_secrets.secrets if len(word) >= MIN_SECRET_LENGTH
        )
        homes = _any_of(
            word.rstrip("/") for word in known_secrets.homes if len(word) > MIN_NAME_LENGTH
        )
        self._homes = re.compile(rf"(?<![\w.]){homes.pattern}(?![\w-])")
        self._replacements = _name_replacements(known_secrets)
        names = _any_of(self._replacements).pattern
        self._names = re.compile(rf"(?<![A-Za-z0-9]){names}(?![A-Za-z0-9])", re.IGNORECASE)

    def redact_text(self, text: str) -> str:
        """Return ``text`` without what is private."""
        text = mask_secrets(self._secrets.sub(_PLACEHOLDER, text)).replace(_PLACEHOLDER, MASK)
        text = _OTHER_HOME.sub(r"\1<user>", self._homes.sub("~", text))
        return self._names.sub(lambda match: self._replacements[match[0].lower()], text)

    def redact_value(self, value: object) -> object:
        """Return what JSON can hold without what is private; keys that are plain words stay."""
        if isinstance(value, str):
            return self.redact_text(value)
        if isinstance(value, list):
            return [self.redact_value(item) for item in value]
        if isinstance(value, dict):
            return {
                key if key.isidentifier() else self.redact_text(key): MASK
                if isinstance(item, str) and item and _SECRET_KEY.search(key)
                else self.redact_value(item)
                for key, item in value.items()
            }
        return value


def mask_secrets(text: str) -> str:
    """Return ``text`` without what looks like a password, a token or a key."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return _URL_PASSWORD.sub(lambda match: f"{match[1]}:{MASK}{match[2] or ''}", text)


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern for each of the words, longer ones first; for no word, what never fits."""
    longest_first = sorted({word for word in words if word}, key=lambda word: (-len(word), word))
    return re.compile(
        f"(?:{'|'.join(map(re.escape, longest_first))})" if longest_first else r"(?!)"
    )


def _name_replacements(known_secrets: KnownSecrets) -> dict[str, str]:
    """Return what stands for each name, in small letters; a host is known by its first part too."""
    replacements: dict[str, str] = {}
    other_hosts = sorted(
        known_secrets.hosts - {known_secrets.host, known_secrets.host.partition(".")[0]}
    )
    hosts = [(known_secrets.host, "<host>")]
    hosts += [(name, f"<host {number}>") for number, name in enumerate(other_hosts, 2)]
    users = [(name, "<user>") for name in sorted(known_secrets.users)]
    for name, replacement in [*users, *hosts]:
        short = name if re.fullmatch(r"[\d.]+", name) else name.partition(".")[0]
        for spelling in (name.lower(), short.lower()):
            if len(spelling) >= MIN_NAME_LENGTH and spelling not in _GENERIC_NAMES:
                replacements.setdefault(spelling, replacement)
    return replacements


_WORD = r"(?:passw(?:or)?d|passphrase|pwd|secret|token|credential)"
_QUOTES = r"[\"'\\]{0,4}"
_IS = r"\s{0,4}[=:]{1,2}\s{0,4}"
_KEY = rf"(?:(?:[_-]|api|access|private)key|key(?={_QUOTES}\s{{0,4}}=))"
_VALUE = r"(?:[bruf]{0,2}\\?\"[^\"\n]*\"?|[bruf]{0,2}\\?'[^'\n]*'?|\S+)"
# Small and large letters and digits; digests have letters of one case, and stay.
_MIXED = r"(?=[a-z0-9]*[A-Z])(?=[A-Z0-9]*[a-z])(?=[A-Za-z]*\d)"
_MIXED_64 = r"(?=[a-z0-9/+]*[A-Z])(?=[A-Z0-9/+]*[a-z])(?=[A-Za-z/+]*\d)"
_TOKEN_SHAPES = (
    r"\b(?:sk|pk|rk|glpat|xox[a-z]|pypi)-[\w-]{8,}",
    r"\b(?:hf|gh[a-z]|github_pat|npm)_\w{8,}",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}",
    r"\bAIza[\w-]{20,}",
    r"\beyJ[\w-]{8,}\.[\w.-]+",  # a JSON web token
    rf"(?<![\w/+.-]){_MIXED_64}[A-Za-z0-9/+]{{40,}}={{0,2}}(?![\w/+-]|\.\w)",  # base64, as of AWS
    rf"\b{_MIXED}[A-Za-z0-9]{{32,}}\b",
)
# Parameters that sign a URL for whoever has it: AWS, Google, Azure, CloudFront.
_SIGNING = r"[\w.-]{0,40}(?:signature|credential|access-?key-?id|\bsig|key-pair-id|policy|code)"
_OTHER_FLAGS = r"(?:ath|edantic|erm|ie|ipe|rint|rofile|rune|thread|\d{1,5})"
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.DOTALL),
        MASK,
    ),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{6,}"), rf"\1{MASK}"),
    (
        re.compile(rf"(?i)(authorization{_QUOTES}{_IS}{_QUOTES})(?:[a-z]+\s+)?[^\s\"']+"),
        rf"\1{MASK}",
    ),
    (
        re.compile(
            rf"(?i)((?:{_WORD}[\w.-]{{0,40}}|{_KEY}){_QUOTES}(?:{_IS}|\s{{1,4}}(?=[\"'])))({_VALUE})"
        ),
        rf"\1{MASK}",
    ),
    (re.compile(rf"(?i)((?<!\S)--?[\w-]{{0,30}}{_WORD}[\w-]{{0,20}}\s+)\S+"), rf"\1{MASK}"),
    (re.compile("|".join(_TOKEN_SHAPES)), MASK),
    (re.compile(r"(https?://)[^\s/@:]{1,300}@"), rf"\1{MASK}@"),
    (re.compile(rf"(?i)([?&;]{_SIGNING}=)[^&\s\"'<>]+"), rf"\1{MASK}"),
    (re.compile(rf"(?i)(\b(?:set-)?cookies?2?{_QUOTES}(?:{_IS}|\s{{1,4}}))[^\n]+"), rf"\1{MASK}"),
    # a webhook's path is its password: Slack, Discord, Teams, Zapier; so is a Telegram bot's
    (
        re.compile(r"(?i)(https?://[^\s\"'<>]{0,300}?hook[^\s/\"'<>]{0,100}/)[^\s\"'<>]+"),
        rf"\1{MASK}",
    ),
    (re.compile(r"(?i)(https?://[^\s/\"'<>]{1,300}/bot\d+:)[\w-]+"), rf"\1{MASK}"),
    # mysql -pSECRET, curl -u name:SECRET; flags of compilers and of find, and ports, are no secrets
    (re.compile(rf"(?<![\w-])(-p)(?!{_OTHER_FLAGS}\b)[^\s\"',\])]+"), rf"\1{MASK}"),
    (re.compile(r"((?<![\w-])(?:-u|--user)[ =]?[^\s:\"']{1,100}:)[^\s\"']+"), rf"\1{MASK}"),
    (re.compile(r"(?<![\w.+*/-])(?!git@)[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"), "<email>"),
)
# What is between `user:` and the last `@`; without an `@`, whatever is no port.
_URL_PASSWORD = re.compile(
    r"(?<=://)([^\s:/@\[]{0,300}):(?:\S{0,1000}(@)|(?!\d{1,5}(?!\w))[^\s/?#\"'<>]+)"
)
# What Slurm says of whose job this is, and where it runs.
_SLURM = r"^SLURM_(?:JOB_)?(?:ACCOUNT|CLUSTER_NAME|COMMENT|GID|GROUP|NODELIST|RESERVATION|UID)$"
_SECRET_KEY = re.compile(rf"(?i){_WORD}|(?:^|[_-]|api|access|private)key$|auth$|{_SLURM}")
_OTHER_HOME = re.compile(r"((?<![\w.-])/(?:home|Users)/|\\Users\\)[^/\\\s:\"']+")
