r"""The table that rewrites text which a T5 vocabulary cannot write; shown in the docs.

T5's vocabulary has no `\ { } < ^ ~` and backtick, no `×` or `÷`, and few accents. The
rules with a condition are in `machine`. `VERSION` is in the fingerprint of a corpus.
"""

VERSION = 1

# If a vocabulary can write all of these, there is nothing to rewrite.
NEEDED = "\\{}^~<`"

# Characters, if the vocabulary cannot write them.
CHARACTERS = {
    **dict.fromkeys("×✕✖", "x"),
    **dict.fromkeys("÷∕⁄", "/"),
    **dict.fromkeys("−‐‑‒﹣－", "-"),
    **dict.fromkeys("·∙⋅∗", "*"),
    **dict.fromkeys("≈≃≅∼", "about"),
    **dict.fromkeys("→⟶➜", "->"),
    **dict.fromkeys("⇒⟹", "=>"),
    **dict.fromkeys("≥⩾", ">="),
    **dict.fromkeys("≤⩽", "at most"),
    **dict.fromkeys("▪◦●○■‣", "•"),
    **dict.fromkeys("´ʹ′", "'"),
    **dict.fromkeys("«»‟″", '"'),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\ufe0f", ""),
    "≠": "!=",
    "±": "+/-",
    "√": "sqrt",
    "∞": "infinity",
    "∴": "so",
    "∵": "because",
    "¢": "cents",
    "¥": "yen",
    "₹": "rupees",
    "₩": "won",
    "¡": "!",
    "¿": "?",
    "∑": "sum",
    "Σ": "Sigma",
    "Δ": "Delta",
    "Ω": "Omega",
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "ε": "epsilon",
    "θ": "theta",
    "λ": "lambda",
    "μ": "mu",
    "µ": "mu",
    "π": "pi",
    "σ": "sigma",
    "φ": "phi",
    "ω": "omega",
    "æ": "ae",
    "Æ": "AE",
    "œ": "oe",
    "Œ": "OE",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "Ł": "L",
    "đ": "d",
    "Đ": "D",
    "ı": "i",
}

# Characters that the vocabulary writes as plain digits, and so as another number.
ALWAYS = {"²": "**2", "³": "**3", "¹": "**1"}
FRACTIONS = {
    "½": "1/2",
    "⅓": "1/3",
    "⅔": "2/3",
    "¼": "1/4",
    "¾": "3/4",
    "⅕": "1/5",
    "⅖": "2/5",
    "⅗": "3/5",
    "⅘": "4/5",
    "⅙": "1/6",
    "⅚": "5/6",
    "⅛": "1/8",
    "⅜": "3/8",
    "⅝": "5/8",
    "⅞": "7/8",
}

# Written as a word of its own, with a space on both sides.
WORDS = frozenset(
    {text for text in CHARACTERS.values() if text.isalpha() and text.isascii()}
    - {*"oOlLdDi", "ae", "AE", "oe", "OE"}
    | {"at most", "less than", "*", "->", "=>", ">=", "!="}
)

# LaTeX commands with no argument.
COMMANDS = {
    "times": "x",
    "div": "/",
    "cdot": "*",
    "ast": "*",
    "pm": "+/-",
    "mp": "-/+",
    "approx": "about",
    "sim": "about",
    "simeq": "about",
    "cong": "about",
    "le": "at most",
    "leq": "at most",
    "leqslant": "at most",
    "lt": "less than",
    "ge": ">=",
    "geq": ">=",
    "geqslant": ">=",
    "gt": ">",
    "ne": "!=",
    "neq": "!=",
    "equiv": "=",
    "to": "->",
    "rightarrow": "->",
    "longrightarrow": "->",
    "Rightarrow": "=>",
    "Longrightarrow": "=>",
    "implies": "=>",
    "therefore": "so",
    "because": "because",
    "circ": "°",
    "degree": "°",
    "ldots": "...",
    "cdots": "...",
    "dots": "...",
    "infty": "infinity",
    "quad": " ",
    "qquad": " ",
    "newline": " ",
    "euro": "€",
    "pounds": "£",
    "textdollar": "$",
    "dollar": "$",
    "cent": "cents",
    "lbrace": "(",
    "rbrace": ")",
    "checkmark": "",
}

# LaTeX commands that write nothing.
SILENT = frozenset(
    "left right middle big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle "
    "limits nolimits hline noindent centering large Large small normalsize bf it rm "
    "boldmath label tag".split()
)

# LaTeX commands whose argument alone is written.
ARGUMENT = frozenset(
    "boxed fbox text textbf textit textrm textsf texttt textnormal emph underline "
    "overline mathrm mathbf mathit mathsf mathtt mathbb mathcal operatorname mbox hbox "
    "bar hat vec boldsymbol bm cancel section subsection".split()
)
FRACTION = frozenset("frac dfrac tfrac cfrac".split())

# A backslash and a sign.
SIGNS = {
    **dict.fromkeys("()[]!^~`<", ""),
    **dict.fromkeys("\\ ;:>/", " "),
    "{": "(",
    "}": ")",
}
