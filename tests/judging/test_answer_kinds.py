"""Kinds of errors seen on real outputs, each with generated siblings.

A template's {G} is the gold letter, {X} and {Y} are other ones; {n} is the gold number,
{a}, {b} and {c} are others; {L} is the gold label, {M} the other one; {w} is the gold
list. A template is right or wrong whatever stands in it.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specialize.judging.answers import judge

RIGHT, WRONG = True, False
# kind -> (answer type, template, whether the text answers rightly)
KINDS = {
    "headings are no end marks": [
        ("choice", "#### **{X}. {noun}**\nToo small.\n\n#### **{G}. glue**\nIt holds.\n\n### Result\n\n$$\n\\boxed{{{G}}}\n$$", RIGHT),
        ("choice", "#### {X}) {noun}\n\nToo small.\n\n#### {G}) glue\n\nIt holds.\n\nThe answer is ({G}).", RIGHT),
        ("choice", "#### Option {G}: a {noun}\nNo.\n\n#### Option {X}: glue\nYes.\n\n**Final answer: {X}**", WRONG),
        ("number", "#### (1) Add {a} and {b}\nDone.\n\n#### (2) Halve it\nDone.\n\n### Result\n\n$$\\boxed{{{n}}}$$", RIGHT),
        ("number", "#### Step {a}: count\nSome.\n\n#### Step {b}: add\nAll.\n\nThe answer is {n}.", RIGHT),
        ("boolean", "#### {M} part\nIt drops out.\n\n#### {L} part\nIt stays.\n\n**Answer:** {L}", RIGHT),
        ("words", "#### Step 1: look at the first letters\nm, o, z\n\n#### Step 2: join them\n\n**Answer:** {w,}", RIGHT),
        ("number", "{a} * {b} is much.\n#### {n}", RIGHT),
    ],
    "what follows a thought outranks it where it states an answer": [
        ("choice", "<think>\n\n</think>\n\n{G}. a {noun}", RIGHT),
        ("number", "<think>\n\n</think>\n\nIt takes {n} {noun}s.", RIGHT),
        ("choice", "<think>It sinks, so the right answer is option ({X}). Wait, it floats.</think>\n({G}) the {noun}", RIGHT),
        ("choice", "<think>It sinks, so the right answer is option ({G}). Wait, it floats.</think>\n({X}) the {noun}", WRONG),
        ("yes_no", "<think>Then the answer is {M}. No, one step is missing.</think>\n\n{L}\nThe {noun} is where it was.", RIGHT),
        ("number", "<think>{a} + {b}, so the answer is {a}. But one {noun} is missing.</think>\n\nMia has **{n}** {noun}s.", RIGHT),
        ("number", "{a} and {b}, the answer is {a} or so\n</think>\n\nMia has {n} {noun}s.", RIGHT),
        ("number", "<think>The answer is {n}.</think>\n\nI hope that this helps!", RIGHT),
        ("number", "<think>So the answer is {n}? Let me see, {a} +", WRONG),
        ("choice", "<think>The answer is ({G}).</think>\n\nQ: Which {noun}?\n(A) one\n(B) two\nA: ({X})", RIGHT),
        ("number", "<|channel|>analysis<|message|>{a} or {b}?<|end|><|start|>assistant<|channel|>final<|message|>It is {n}.<|return|>", RIGHT),
    ],
    "an aside is no answer": [
        ("choice", "So option ({G}) is sound, whereas option ({X}) breaks the rule.", RIGHT),
        ("choice", "Hence ({G}) is the sarcastic one, while ({X}) is an ordinary remark.", RIGHT),
        ("choice", "Therefore option ({X}) is fine, whereas option ({G}) is not.", WRONG),
        ("choice", "The line in option ({X}) is ironic because it means the reverse, and the line in option ({G}) is a plain fact.", WRONG),
        ("choice", "There is a slip in a {noun} (option {X}), but the larger fault is the lost clause, which makes **{G}) Lost clause** the best choice.", RIGHT),
    ],
    "denied and dismissed letters are no answers": [
        ("choice", "({X}) red {noun}: this option is not funny.\n({G}) bed {noun}: this option plays on words.\n({Y}) rod {noun}: this option is no pun.\n\nTherefore, the funny name is ({G}) bed {noun}.", RIGHT),
        ("choice", "The ironic line is the other one, since nobody likes a {noun}.\n\nIn contrast, option ({G}) is sincere praise.", WRONG),
        ("choice", "So the ironic line is ({G}): it praises a {noun}.\n\nBy contrast, option ({X}) is sincere.", RIGHT),
        ("choice", "- Names ({X}) are kept.\n- Numbers ({Y}) are kept.\n- Facts ({G}) does not apply here.", WRONG),
        ("choice", "It would be a {noun}, which nobody offers. The closest answer is ({G}) a cup, which is not correct.", WRONG),
        ("choice", "The {noun} rules out ({X}). So it is ({G}), not ({Y}).", RIGHT),
    ],
    "a bare letter is a letter": [
        ("choice", "A crowd needs shade, so the best match is **{G}. the {noun}**.", RIGHT),
        ("choice", "Hence the supported statement is:\n\n**{G}. It doubles every year.**", RIGHT),
        ("choice", "Therefore, the right sentence is:\n\n({G}) a small {noun}", RIGHT),
        ("choice", "All things considered, option {G} is the one that makes a joke of the {noun}.", RIGHT),
        ("choice", "A: In the end Nora holds **({G}) the paper {noun}**.", RIGHT),
        ("choice", "Based on this, option ({G}) \"Stone {noun}s. So very soft\" is the ironic one, since stone is hard.", RIGHT),
    ],
    "a conclusion may be explained": [
        ("valid_invalid", "Some may be none. Hence the reasoning is {L}. Nothing said so far rules that out.", RIGHT),
        ("valid_invalid", "Every link holds. So the argument is **{L}**.\n\nPut differently, whoever grants both must grant the third.", RIGHT),
        ("choice", "All are heist films. So my pick would be ({G}) The {noun}. It has the same humour, which ({X}) lacks, and ({Y}) is too slow.", RIGHT),
        ("choice", "Considering all this, I would recommend ({G}) The {noun}. It is as long as the others.", RIGHT),
    ],
    "a quoted operand is no result": [
        ("boolean", "In the end the value of \"not {M} or {L}\" is **{L}**.", RIGHT),
        ("boolean", "The whole line `( {M} and not {L} )` evaluates to `{L}`.", RIGHT),
        ("boolean", "Therefore, the result of \"{M} or {M}\" is {L}.", RIGHT),
        ("boolean", "So the answer is \"not {L}\".", WRONG),
        ("boolean", "So the answer is {L} or {M}.", WRONG),
    ],
    "two offers are no answer": [
        ("choice", "Both fit, so the correct answer is **{G}** or **{X}**.", WRONG),
        ("choice", "The correct answer is ({G}) 6am to 8am and ({X}) 1pm to 2pm.", WRONG),
        ("yes_no", "So the answer is {L} if Ana lies and {M} otherwise.", WRONG),
        ("number", "The answer is {n} metres of dark red ribbon and {a} metres of white ribbon.", WRONG),
        ("number", "The answer is {n} or {a}.", WRONG),
    ],
    "reprinted options are no answer": [
        ("choice", "Answer:\n({G}) The nurse sings\n({X}) The pilot sings\n({Y}) Ambiguous\n\nExplanation: the pronoun follows the pilot, so option ({X}) is right.", WRONG),
        ("choice", "Answer:\n({X}) The nurse sings\n({G}) The pilot sings\n({Y}) Ambiguous\n\nSo option ({G}) is right.", RIGHT),
    ],
    "a label of a step is no answer": [
        ("yes_no", "Door 1: {L}, it stays shut.\n\nDoor 2: {L}, it stays shut.\n\nTherefore, the {noun} is still lit.", WRONG),
        ("yes_no", "1. It may be.\n2. {L}, it stays shut. A {noun} is no key.", RIGHT),
    ],
    "a list is a list": [
        ("words", "Here is the sorted list:\n\n{w#}\n\nJust ask if you want it in reverse order!", RIGHT),
        ("words", "**Answer:** The words from first to last are:\n\n{w#}", RIGHT),
        ("words", "The sorted words:\n\n{w|}", RIGHT),
        ("words", "So the answer is {w&}.", RIGHT),
        ("words", "- \"a\": one (1)\n- \"b\": two (2)\n\nSo the sorted list is: {w}.", RIGHT),
    ],
    "given numbers are no answers": [
        ("number", "Answer: {a} kilograms of hay will last the goats for {n} weeks.", RIGHT),
        ("number", "Answer: {a} pumps running at this pace would move {n} litres in an hour.", RIGHT),
        ("number", "Answer: Mia needs {n} further months to have put by a total of ${a}.", RIGHT),
        ("number", "Answer: Olaf must row the remaining {a} kilometres at a pace of {n} kilometres an hour.", RIGHT),
        ("number", "Answer:\n\nStep 1: {a} grams of beans hold {b} grams of fat.\n\nStep 2: Over six days that makes 6 x {b} = {n} grams.", RIGHT),
        ("number", "{a} / {b} is exact.\n\nTherefore, Lena has to bake {n} trays so that each of her {a} guests gets {b} rolls.", RIGHT),
        ("number", "Rosa will have filled {n} pages by her {c}th lesson.", RIGHT),
        ("number", "A: You own **{n}** tools. The saws make up {a}, while the drill and the vice are {b} each.", RIGHT),
        ("number", "Answer: You have {n} tools: {a} saws, {b} files, and {c} hammers.", RIGHT),
        ("number", "The user has {n} fruits: {a} plums and {b} pears.", RIGHT),
    ],
    "an unfinished sum is no answer": [
        ("number", "{a}^2 + {b}^2 = {c}\n{b}^2 + {a}^2 = {c}\n{c}^{n}", WRONG),
        ("number", "Week one: {a} * {b} = {c} cups.\nWeek two: {c} + {a} * {n}", WRONG),
        ("number", "Week one: {a} * {b} = {c} cups.\nWeek two: {c} + {a} = {n}", RIGHT),
    ],
    "a sub-question goes on": [
        ("number", "A1: The block has {a} floors.\nA2: {b} flats are let.\n\nQ3: How many are empty?\n\nA3: {n} flats.\n\nFinal answer: {n}", RIGHT),
        ("number", "Q1: How many?\nA1: {a}.\n\nQ2: And then?\nA2: The answer is {n}.", RIGHT),
        ("number", "The answer is {n}.\n\nQ: How many are {a} and {b}?\nA: The answer is {b}.", RIGHT),
    ],
    "LaTeX and markdown around an answer are dropped": [
        ("yes_no", "So: \\boxed{{\\text{{{L}}}}}", RIGHT),
        ("choice", "**\\boxed{{\\textbf{{({G})}}}}**", RIGHT),
        ("valid_invalid", "\\[ \\boxed{{\\mathrm{{{L}}}}} \\]", RIGHT),
        ("words", "\\boxed{{\\text{{{w,}}}}}", RIGHT),
        ("number", "She sold **{n} clips** altogether in the {a} months.", RIGHT),
    ],
}  # fmt: skip
LABELS = {
    "boolean": ("True", "False"),
    "yes_no": ("Yes", "No"),
    "valid_invalid": ("valid", "invalid"),
}
WORDS = ["mango", "olive", "zebra", "pilot", "quartz", "rumour", "saddle", "tunnel"]
CASES = [(kind, *case) for kind, cases in KINDS.items() for case in cases]


def written(words: list[str]) -> dict[str, str]:
    return {
        "{w}": " ".join(words),
        "{w,}": ", ".join(words),
        "{w&}": f"{', '.join(words[:-1])}, and {words[-1]}",
        "{w|}": "\n".join(words),
        "{w#}": "\n".join(f"{n}. {word}" for n, word in enumerate(words, start=1)),
    }


@pytest.mark.parametrize(("kind", "answer_type", "template", "right"), CASES)
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    letters=st.permutations("BCDEFG"),
    numbers=st.lists(st.integers(13, 99), min_size=4, max_size=4, unique=True),
    words=st.lists(st.sampled_from(WORDS), min_size=3, max_size=5, unique=True),
    noun=st.sampled_from(["lamp", "kite", "spoon", "anchor"]),
    swap=st.booleans(),
)
def test_every_sibling_of_a_kind_is_judged_alike(
    kind, answer_type, template, right, letters, numbers, words, noun, swap
):
    for name, text in written(words).items():
        template = template.replace(name, text)
    label, other = LABELS.get(answer_type, ("", ""))[:: -1 if swap else 1]
    names = dict(zip("GXY", letters, strict=False)) | dict(
        zip("nabc", numbers, strict=True)
    )
    text = template.format(**names, L=label, M=other, noun=noun)
    gold = {"choice": f"({letters[0]})", "number": str(numbers[0])}.get(
        answer_type, label or " ".join(words)
    )
    verdict = judge(text, [gold], answer_type)
    assert verdict.correct is right, (kind, text, verdict)
