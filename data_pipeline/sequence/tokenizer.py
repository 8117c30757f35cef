"""Encodes DNA as token ids and back: non-overlapping k-mers, and byte-pair encoding for comparison.

Both vocabularies start with the same 32 special tokens, so that `<s>`, `</s>` and `<pad>` have the same ids everywhere.
The k-mer vocabulary is the published one: the special tokens, then itertools.product("ATCG", repeat=k); with the base
codes of `bases`, a k-mer's id is 32 plus its codes read as a number in base 4.
"""

import functools
import hashlib
import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_pipeline.errors import ArgumentError, FileError, FormatError, TokenizerError
from data_pipeline.ranges import Whole
from data_pipeline.sequence import bases

# fmt: off
SPECIAL_TOKENS = [
    "<oov>", "<s>", "</s>", "<pad>", "<mask>", "<bog>", "<eog>", "<bok>", "<eok>", "<+>", "<->",
    "<cds>", "<pseudo>", "<tRNA>", "<rRNA>", "<ncRNA>", "<miscRNA>",
    "<mam>", "<vrt>", "<inv>", "<pln>", "<fng>", "<prt>", "<arc>", "<bct>", "<mit>", "<plt>", "<plm>", "<vir>",
    "<sp0>", "<sp1>", "<sp2>",
]
# fmt: on
SPECIAL_IDS = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
NUM_SPECIAL = len(SPECIAL_TOKENS)
OOV, BOS, EOS, PAD, MASK = range(5)

K = Whole(1, 8)  # bases per k-mer
_TRAIN = "train one with gener-jax data train_bpe"
BPE_SPAN = 16384
REMAINDERS = ("error", "trim_left", "pad_left", "oov")

_SPECIAL = re.compile(rb"<[^<>]*>")
_IUPAC = "".join(bases.IUPAC).encode()


@functools.cache
def kmer_codes(k: int) -> np.ndarray:
    """The base codes of each k-mer in the order of the ids, int64 [4^k, k]."""
    return np.arange(4**k)[:, None] >> 2 * np.arange(k - 1, -1, -1) & 3


class Tokenizer:
    """The base of both tokenizers: special tokens written in the text, and decoding by a table of texts."""

    kind: str
    name: str
    tokens: list[str]  # the vocabulary in the order of the ids

    def encode_bases(self, codes: np.ndarray) -> np.ndarray:
        """Ids, int32 [tokens], of base codes, uint8 [bases], as `bases.encode` gives them."""

    def _encode_dna(self, letters: bytes, start: int, remainder: str) -> np.ndarray:
        """Encodes the DNA between two special tokens; `start` is its position in the text, for error messages."""

    @property
    def vocab_size(self) -> int:
        """The number of ids, special tokens included."""
        return len(self.tokens)

    @functools.cached_property
    def digest(self) -> str:
        """The sha256 of `vocab_txt`, in hex: two tokenizers with the same digest give the same ids."""
        return hashlib.sha256(self.vocab_txt().encode()).hexdigest()

    @functools.cached_property
    def token_bases(self) -> np.ndarray:
        """The number of bases of each id, int32 [vocab_size]; 0 for special tokens, <oov> included."""
        return np.array([0] * NUM_SPECIAL + [len(token) for token in self.tokens[NUM_SPECIAL:]], np.int32)

    def vocab_txt(self) -> str:
        """The published vocab.txt: one `token id` pair per line."""
        return "".join([f"{token} {i}\n" for i, token in enumerate(self.tokens)])

    def token(self, token_id: int) -> str:
        """The token of an id as written in the vocabulary."""
        if token_id not in Whole(0, self.vocab_size - 1):
            raise TokenizerError(
                f"token id {token_id} is not in 0..{self.vocab_size - 1}, the ids of {self.name}", value=token_id
            )
        return self.tokens[token_id]

    def encode(self, text: str | bytes, add_bos: bool = False, remainder: str = "error") -> np.ndarray:
        """Encodes DNA with special tokens written in it (`<mam><cds>ATG...`) as token ids, int32 [tokens].

        Case is ignored and U is read as T. A token with any other IUPAC letter is <oov>.

        Args:
          text: DNA and special tokens, nothing else: no white space, gaps or digits.
          add_bos: prepend <s>, even if the text starts with one.
          remainder: what to do if the DNA up to a special token or the end is not a whole number of k-mers. "error"
            raises an error, "trim_left" drops bases at its left, "pad_left" adds A there, "oov" makes the bases left
            over at its end one <oov>, as the published tokenizer does, which a model continues with nonsense. BPE has
            no remainder and ignores this.

        Raises:
          TokenizerError: an unknown special token, a character that is not a base, or a remainder with "error"; its
            `position` is 0-based.
        """
        if remainder not in REMAINDERS:
            raise TokenizerError(f"remainder {remainder!r} must be one of {', '.join(REMAINDERS)}", value=remainder)
        if isinstance(text, str):
            try:
                text = text.encode("ascii")
            except UnicodeEncodeError as error:
                raise _not_a_base(text[error.start], error.start) from None
        parts = [np.array([BOS], np.int32)] if add_bos else []
        start = 0
        if b"<" in text:
            for match in _SPECIAL.finditer(text):
                written = match[0].decode("latin-1")
                if written not in SPECIAL_IDS:
                    raise TokenizerError(
                        f"unknown special token {written[:40]!r} at position {match.start()}: "
                        f"the special tokens are {' '.join(SPECIAL_TOKENS)}",
                        value=written,
                        position=match.start(),
                    )
                if match.start() > start:
                    parts.append(self._encode_dna(text[start : match.start()], start, remainder))
                parts.append(np.array([SPECIAL_IDS[written]], np.int32))
                start = match.end()
        if start < len(text):
            parts.append(self._encode_dna(text[start:], start, remainder))
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.int32), *parts])

    def decode(self, ids) -> str:
        """Decodes ids [tokens] as text: bases, special tokens as written, and N for each base of an <oov>.

        A k-mer <oov> is k N, a BPE <oov> is one N. Raises TokenizerError for an id outside the vocabulary.
        """
        ids = np.asarray(ids)
        if ids.size == 0:
            return ""
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise TokenizerError(f"decode needs a list of integer ids, not {ids.dtype} of shape {list(ids.shape)}")
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            where = int(np.flatnonzero((ids < 0) | (ids >= self.vocab_size))[0])
            raise TokenizerError(
                f"token id {ids[where]} at position {where} is not in 0..{self.vocab_size - 1}, the ids of {self.name}",
                value=int(ids[where]),
                position=where,
            )
        letters, lengths, kmers = self._texts
        if kmers is not None and not ((ids > OOV) & (ids < NUM_SPECIAL)).any():
            return kmers.take(ids, 0).tobytes().decode("ascii")
        held = np.arange(letters.shape[1]) < lengths.take(ids)[:, None]
        return letters.take(ids, 0)[held].tobytes().decode("ascii")

    @functools.cached_property
    def _texts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Bytes of each id, uint8 [vocab_size, max_length], their number, and for a k-mer vocabulary the first k."""
        k = self.k if self.kind == "kmer" else None
        texts = ["N" * (k or 1), *self.tokens[1:]]
        lengths = np.array([len(text) for text in texts])
        letters = np.array(texts, f"S{lengths.max()}").view(np.uint8).reshape(len(texts), -1)
        return letters, lengths, np.ascontiguousarray(letters[:, :k]) if k else None


@dataclass(frozen=True)
class KmerTokenizer(Tokenizer):
    """Non-overlapping k-mers read from the left; k is 1 to 8."""

    k: int = 6
    kind = "kmer"

    def __post_init__(self):
        object.__setattr__(self, "k", K.check(self.k, "k"))

    def __reduce__(self):  # without the tables, which the other process computes again
        return KmerTokenizer, (self.k,)

    @property
    def name(self) -> str:
        """`kmer-6` and so on, for logs and file names."""
        return f"kmer-{self.k}"

    @functools.cached_property
    def tokens(self) -> list[str]:
        """The special tokens, then the k-mers in the order of the published vocabulary."""
        return [*SPECIAL_TOKENS, *map("".join, itertools.product("ATCG", repeat=self.k))]

    def special_tokens_map(self) -> str:
        """The published special_tokens_map.json, to the byte."""
        roles = {"bos": BOS, "eos": EOS, "mask": MASK, "pad": PAD, "unk": OOV}
        tokens = {f"{role}_token": SPECIAL_TOKENS[token_id] for role, token_id in roles.items()}
        return json.dumps(tokens, indent=2) + "\n"

    def encode_bases(self, codes: np.ndarray) -> np.ndarray:
        """Ids of base codes uint8 [bases] as `bases.encode` gives them, int32 [bases // k].

        A k-mer with an N is <oov>. Bases left over at the end are ignored; the caller, which knows whether the sequence
        continues, counts them.
        """
        return _kmer_ids(codes, self.k, _CODES)[0]

    def _encode_dna(self, letters: bytes, start: int, remainder: str) -> np.ndarray:
        over = len(letters) % self.k
        if over:
            _check_letters(letters, start)
            if remainder == "error":
                raise TokenizerError(
                    f"{len(letters)} bases from position {start} are not a whole number of {self.k}-mers, {over} left "
                    "over: choose remainder 'trim_left', 'pad_left' (with A) or 'oov'",
                    value=len(letters),
                    position=start,
                )
            letters = letters[over:] if remainder == "trim_left" else letters
            letters = b"A" * (self.k - over) + letters if remainder == "pad_left" else letters
        ids, unknown = _kmer_ids(np.frombuffer(letters, np.uint8), self.k, _CAPITALS)
        if len(unknown):  # U, N, another IUPAC letter or not a base: rare, so these k-mers are encoded again
            _check_letters(letters, start)
            kmers = np.frombuffer(letters, np.uint8, len(ids) * self.k).reshape(-1, self.k)
            ids[unknown] = self.encode_bases(bases.encode(kmers[unknown].tobytes()))
        return np.append(ids, np.int32(OOV)) if over and remainder == "oov" else ids


# A k-mer of up to eight letters fits in one 64-bit word, so tables replace loops over letters. Two bits of a letter
# distinguish A, C, T and G in either case: _KEY selects them, * _FOLD joins those of neighbours to four bits, and
# * _GATHER moves the four groups of four bits to the top without overlap. The result is a key without collisions, below
# 4^k for even k. The tables map the key to the k-mer's id, and to its word for comparison: a word with anything but
# A, C, G and T differs from it.
_KEY = 0x0606060606060606
_FOLD = 0x401
_FOLDED = 0x1E001E001E001E00
_GATHER = 1 << 39 | 1 << 27 | 1 << 15 | 1 << 3
_BLOCK = 16384  # words per step, so that intermediate results stay in the cache

# The symbols of A, T, C, G, the significant bits of a word, and the shift that aligns its two bits with _KEY.
_CAPITALS = (b"ATCG", 0xDFDFDFDFDFDFDFDF, 0)
_CODES = (bytes(range(4)), 0xFFFFFFFFFFFFFFFF, 1)


def _kmer_ids(symbols: np.ndarray, k: int, alphabet: tuple) -> tuple[np.ndarray, np.ndarray]:
    """The ids, int32 [n // k], of symbols, uint8 [n], and the indices, int64, of those that are <oov>."""
    table, words = _kmer_tables(k, alphabet)
    _, mask, shift = alphabet
    mask &= 256**k - 1
    symbols = np.ascontiguousarray(symbols, np.uint8)
    ids = np.empty(len(symbols) // k, np.int32)
    unknown = [np.zeros(0, np.int64)]
    for start in range(0, len(ids), _BLOCK):
        stop = min(start + _BLOCK, len(ids))
        block = symbols[start * k : stop * k + 8]
        if len(block) < (stop - start) * k + 8:  # the last word reads past its k-mer
            block = np.concatenate([block, np.zeros(8, np.uint8)])
        word = np.ndarray((stop - start,), "<u8", block, 0, (k,)) & mask
        key = _key(word << shift if shift else word)
        table.take(key, out=ids[start:stop], mode="clip")
        wrong = words.take(key, mode="clip") != word
        if wrong.any():
            unknown.append(start + np.flatnonzero(wrong))
    unknown = np.concatenate(unknown)
    ids[unknown] = OOV
    return ids, unknown


@functools.cache
def _kmer_tables(k: int, alphabet: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Tables by key: the id of each k-mer, int32, and its word, uint64; the word of an unused key is 0."""
    symbols, _, shift = alphabet
    kmers = np.zeros((4**k, 8), np.uint8)
    kmers[:, :k] = np.frombuffer(symbols, np.uint8)[kmer_codes(k)]
    word = kmers.view("<u8")[:, 0]
    key = _key(word << shift)
    table = np.zeros(16 ** ((k + 1) // 2), np.int32)
    words = np.zeros(len(table), np.uint64)
    table[key] = np.arange(NUM_SPECIAL, NUM_SPECIAL + 4**k)
    words[key] = word
    return table, words


def _key(word: np.ndarray) -> np.ndarray:
    key = word & _KEY
    key *= _FOLD
    key &= _FOLDED
    key *= _GATHER
    key >>= 48
    return key.view(np.int64)


def _check_letters(letters: bytes, start: int):
    """Raises TokenizerError for the first character that is not a nucleotide; `start` is the position of `letters`."""
    other = letters.translate(None, _IUPAC + _IUPAC.lower())
    if other:
        raise _not_a_base(chr(other[0]), start + letters.index(other[:1]))


def _not_a_base(character: str, position: int) -> TokenizerError:
    return TokenizerError(
        f"character {character!r} at position {position} is not a base: a text may contain A, C, G, T, U, N, "
        "other IUPAC letters and special tokens such as <s>, but no white space, gaps or digits",
        value=character,
        position=position,
    )


@dataclass(frozen=True)
class BpeTokenizer(Tokenizer):
    """Byte-pair encoding of DNA with a sentencepiece model that `gener-jax data train_bpe` wrote.

    A base that is not A, C, G or T is one <oov>. A text has no remainder, so `remainder` has no effect. Sentencepiece
    slows down with longer texts, so runs of bases are cut every 16 384 bases from the start of the run, and no piece
    crosses a cut.

    Raises:
      FileError: the file is missing or cannot be read.
      FormatError: it is not a sentencepiece model with such a vocabulary.
    """

    model_file: str = field(compare=False)
    model: bytes = field(init=False, repr=False)  # stored, so that a copy in another process needs no file
    kind = "bpe"

    def __post_init__(self):
        try:
            model = Path(self.model_file).read_bytes()
        except OSError as error:
            raise FileError(f"cannot be read ({error.strerror})", file=self.model_file, remedy=_TRAIN) from None
        object.__setattr__(self, "model", model)
        other = [piece for piece in self.tokens[NUM_SPECIAL:] if not piece or set(piece) - set("ACGT")]
        decoded = "".join(self.tokens[i] for i in self._processor.encode("ACGTTGCA"))
        for wrong, reason in (
            (self.tokens[:NUM_SPECIAL] != SPECIAL_TOKENS, f"its first {NUM_SPECIAL} pieces are not the special tokens"),
            (other, f"its piece {''.join(other[:1])!r} is not of A, C, G and T"),
            (decoded != "ACGTTGCA", "decoding does not return the encoded bases"),
        ):
            if wrong:
                raise FormatError(f"is not a DNA vocabulary: {reason}", file=self.model_file, remedy=_TRAIN)

    @property
    def name(self) -> str:
        """`bpe-1024` and so on, for logs and file names."""
        return f"bpe-{self.vocab_size}"

    @functools.cached_property
    def _processor(self):
        import sentencepiece  # takes 0.1 s, and k-mers do not need it

        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(self.model)
        except RuntimeError:
            raise FormatError("is not a sentencepiece model", file=self.model_file, remedy=_TRAIN) from None
        return processor

    @functools.cached_property
    def tokens(self) -> list[str]:
        """The special tokens, then the pieces in the order of the model: merges, then single bases."""
        return [self._processor.IdToPiece(i) for i in range(self._processor.GetPieceSize())]

    def encode_bases(self, codes: np.ndarray) -> np.ndarray:
        """Ids of base codes uint8 [bases] as `bases.encode` gives them, int32 [tokens]; every base is in one of them.

        Each N is one <oov>.
        """
        codes = np.asarray(codes, np.uint8)
        parts, done = [np.zeros(0, np.int32)], 0
        for start, stop in bases.runs(codes < bases.N).tolist():
            letters = bases.decode(codes[start:stop])
            spans = [letters[i : i + BPE_SPAN] for i in range(0, len(letters), BPE_SPAN)]
            ids = np.array(list(itertools.chain.from_iterable(self._processor.encode(spans, num_threads=1))), np.int32)
            parts += [np.full(start - done, OOV, np.int32), ids]
            done = stop
        parts.append(np.full(len(codes) - done, OOV, np.int32))
        return np.concatenate(parts)

    def _encode_dna(self, letters: bytes, start: int, remainder: str) -> np.ndarray:
        _check_letters(letters, start)
        return self.encode_bases(bases.encode(letters))


def make(kind: str, k: int = 6, model_file: str | None = None) -> Tokenizer:
    """The tokenizer that a configuration names: "kmer" with its k, or "bpe" with its model file.

    Raises:
      ArgumentError: another kind, a k outside 1 to 8, or no model file for "bpe".
      FileError, FormatError: as `BpeTokenizer`.
    """
    if kind == "kmer":
        return KmerTokenizer(k)
    if kind == "bpe":
        if not model_file:
            raise ArgumentError("is missing: a bpe tokenizer needs one", field="model_file", remedy=_TRAIN)
        return BpeTokenizer(str(model_file))
    raise ArgumentError("must be kmer or bpe", field="kind", value=kind)
