"""Hand-written word lists of the tokeniser: negators, spellings, identity terms."""

from __future__ import annotations

from typing import Final

_CONTRACTED: Final = (
    "ain aren can couldn didn doesn don hadn hasn haven isn mightn mustn needn shan shouldn wasn weren won wouldn"
).split()

NEGATORS: Final = frozenset(
    "not no never nor neither nothing nobody none nowhere without hardly barely scarcely zero".split()
) | frozenset(f"{stem}'t" for stem in _CONTRACTED)

# Words after a "never" that emphasises ("never seen such a mess"), rather than negates ("never buy such a mess").
EXPERIENCED: Final = frozenset(
    """
    been before felt had seen met heard read watched tasted eaten drunk experienced encountered enjoyed laughed cried
    slept stayed owned used tried known knew was were had have thought
    """.split()
)

LIGHT: Final = frozenset(
    """
    a the this that these those it its is are was were be been being am to of in on at for by as i
    he they we you my your his our their me them us very so too really quite that's there
    """.split()
)

# Verbs after a negation that extend its scope: "I can't say that I found anything here good".
OPINIONS: Final = frozenset(
    "say think believe claim call describe consider imagine feel argue suppose expect pretend agree as".split()
)

# What may stand between a negation and such a verb, or in a clause that only denies: "but it really was not the case".
QUALIFIERS: Final = frozenset(
    """
    honestly really truly actually simply just even ever sadly unfortunately unluckily luckily fortunately thankfully
    would could can will do did does has have had for at all that case so any more anymore longer i'd i'll i've he'd
    it's that's after however in fact course
    """.split()
)

# Verbs that report what other people think.
SAYING: Final = frozenset(
    "say says said think thinks thought find finds found call calls called claim claims heard".split()
)

# Verbs that end a trouble, and troubles: "they fixed my problem".
RESOLVED: Final = frozenset("fixed solved resolved sorted repaired corrected settled rectified handled".split())
TROUBLES: Final = frozenset(
    """
    problem problems issue issues trouble bug bugs error errors fault faults failure failures complaint complaints
    glitch glitches leak mistake mistakes defect dispute
    """.split()
)

# Verbs whose clause tells what was expected, when "would" or "to be" follows.
HOPES: Final = frozenset(
    "thought hoped hoping expected expecting assumed believed figured imagined feared supposed promised".split()
)

# Spellings that are replaced by a common form. "wont" and "cant" are also words, but are almost always contractions.
SPELLINGS: Final = {f"{stem}t": f"{stem}'t" for stem in _CONTRACTED} | {
    "n't": "not",
    "an": "a",
    "cannot": "can't",
    "u": "you",
    "ur": "your",
    "r": "are",
    "luv": "love",
    "thx": "thanks",
    "pls": "please",
    "plz": "please",
    "gr8": "great",
    "w/o": "without",
    # Pronouns carry no sentiment, so "he" and "she" must give the same scores.
    "she": "he",
    "her": "his",
    "hers": "his",
    "him": "his",
    "herself": "himself",
    "she'd": "he'd",
    "she'll": "he'll",
}

# Elongated words whose normal form keeps a double letter ("gooood"). All other words keep a single letter ("sooo").
DOUBLE_LETTERS: Final = frozenset(
    """
    aww been boo boooo book call cool creepy dull fall feel feels feeling free full funny good
    goodness happy hell hello hoo inn jeez keep kill killed loo look looks looking need oops pee
    pretty really sleep sleepy soon sorry suddenly sweet tell too weed week well will woo yahoo
    hurry merry silly smell boss miss missed kiss pass mess worry all ball hall yummy tummy
    """.split()
)

_GROUPS: Final = """
gay lesbian bisexual homosexual heterosexual straight queer trans transgender transsexual asexual
nonbinary cisgender lgbt lgbtq
black white asian hispanic latino latina latinx african caucasian arab arabic indigenous
muslim muslims islamic christian christians jewish jew jews hindu hindus buddhist sikh catholic
protestant mormon atheist atheists agnostic secular orthodox pagan
american americans british english irish scottish welsh french german italian spanish portuguese
dutch belgian swiss austrian swedish norwegian danish finnish polish russian ukrainian greek
turkish israeli palestinian iranian iraqi syrian lebanese egyptian moroccan nigerian kenyan
ethiopian somali ghanaian indian indians pakistani bangladeshi afghan chinese japanese korean
vietnamese thai filipino indonesian malaysian mexican mexicans cuban brazilian argentinian
colombian peruvian chilean puerto rican jamaican haitian canadian australian
woman women man men girl girls boy boys lady ladies gentleman gentlemen male males female females
guy guys
""".split()

_NAMES: Final = """
james john robert michael william david richard joseph thomas charles christopher daniel matthew
anthony donald steven paul andrew joshua kenneth kevin brian george edward ronald timothy jason
jeffrey ryan jacob gary nicholas eric jonathan stephen larry justin scott brandon benjamin samuel
gregory alexander patrick dennis jerry tyler aaron jose adam nathan henry peter kyle noah ethan
jeremy walter christian keith roger terry austin sean gerald carl harold dylan arthur lawrence
jordan jesse bryan billy bruce gabriel joe logan alan juan albert willie elijah wayne randy vincent
mason roy ralph bobby russell bradley philip eugene harry josh adam alan jack brad frank ryan
mary patricia jennifer linda elizabeth barbara susan jessica sarah karen lisa nancy betty sandra
margaret ashley kimberly emily donna michelle carol amanda melissa deborah stephanie dorothy
rebecca sharon laura cynthia amy kathleen angela shirley brenda emma anna pamela nicole samantha
katherine christine helen debra rachel carolyn janet maria catherine heather diane olivia julie
joyce victoria ruth virginia lauren kelly christina joan evelyn judith andrea hannah megan cheryl
jacqueline martha madison teresa gloria sara janice ann kathryn abigail sophia frances jean alice
judy isabella julia amber denise danielle marilyn beverly charlotte natalie theresa diana brittany
doris kayla alexis lori marie ellen katie courtney alonzo jamel theo alphonse jerome leroy torrance
darnell lamar malik jamal tyrone deshawn terrence lakisha latoya nichelle shaniqua shereen ebony
latisha tia jasmine aisha keisha tanisha malika yvette mohammed muhammad mohamed ahmed ali omar
hassan ibrahim yusuf khalid fatima zainab khadija leila yasmin amina wei ming jing xiu hiroshi
yuki kenji sakura priya raj ravi anjali deepak sanjay carlos miguel luis diego javier alejandro
sofia camila valentina lucia guadalupe ivan dmitri olga natasha svetlana
""".split()

# Given names that are also words. They are names only if they begin with a capital letter.
GIVEN_NAMES: Final = frozenset(
    "Joy Grace Dick Faith Felicity Prudence Constance Victor Mercy Chuck Ernest Clement".split()
)

IDENTITY: Final = frozenset(_GROUPS) | frozenset(_NAMES)

# Valence of symbols that are missing from the lexicon, or that it describes wrongly.
SYMBOLS: Final = (
    {"<smile>": 2.0, "<frown>": -1.8, "<heart>": 2.8, "<heartbreak>": -2.5}
    | {"<rated-high>": 2.8, "<rated-low>": -2.8}
    | dict.fromkeys("👍👏🙌🙏💪🔥✨🎉💯🏆😎🤩🥳💖💕💙💜💚💛🧡🖤♥☺😊😁😄😃😀🙂😇🤗", 2.2)
    | dict.fromkeys("😍🥰😘❤", 3.0)
    | dict.fromkeys("😂🤣😉😜😋", 1.2)
    | dict.fromkeys("👎😡😠🤬🤮🤢💔😤😫😩😖😞😒🙄😑😣😟🙁☹😢😔😓😷💩😨😰", -2.2)
    | dict.fromkeys("😭😱🤦", -1.0)
    | dict.fromkeys("✅", 1.2)
    | dict.fromkeys("❌", -1.2)
)
