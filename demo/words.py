"""Words that the other sections draw from: names, things, places, and a lexicon for passages."""

import random

__all__ = ["ADJECTIVES", "CITIES", "COLOURS", "LEXICON", "NAMES", "THINGS", "VERBS", "made_up_word"]

NAMES = tuple(
    "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Karla Leo Maria Noah Olga Peter Quinn Rosa Sam Tina "
    "Uma Victor Wendy Xavier Yara Zoe Alice Bob Carol Dan Eve Frank Gina Hugo Ines Jonas Kim Lara Max Nina Otto "
    "Paula Ralph Sofia Tom Ursula Vera Will".split()
)
THINGS = tuple(
    "apples pears books pencils coins stones cards shells cups plates flowers stamps marbles tickets cookies keys "
    "bottles candles boxes oranges buttons eggs nuts toys letters lamps chairs hats shoes spoons".split()
)
CITIES = tuple(
    "Paris London Berlin Rome Madrid Vienna Prague Oslo Lisbon Athens Dublin Warsaw Tokyo Cairo Delhi Lima Boston "
    "Chicago Toronto Sydney Geneva Zurich Hamburg Munich Milan Naples Porto Krakow Helsinki Stockholm".split()
)
COLOURS = tuple("red blue green yellow white black brown orange purple pink grey golden silver".split())
ADJECTIVES = tuple(
    "small large old young quiet loud bright dark warm cold soft hard quick slow kind brave clever gentle happy sad "
    "tired busy empty full narrow wide heavy light clean dusty wooden round sharp smooth sweet bitter early late "
    "simple strange plain rich poor deep shallow calm wild proud shy honest patient careful curious".split()
)
VERBS = tuple(
    "walks runs sits stands looks listens waits works sleeps reads writes sings laughs smiles speaks whispers thinks "
    "dreams learns teaches plays jumps climbs swims cooks paints builds carries opens closes finds loses keeps "
    "gives takes brings sends counts watches follows leads".split()
)
NOUNS = tuple(
    "river mountain forest garden house door window table road bridge village city market school library theatre "
    "station harbour island field lake sea sky cloud rain snow wind storm sun moon star night morning evening winter "
    "summer spring autumn dog cat horse bird fish fox wolf bear mouse rabbit owl tree leaf flower stone sand fire "
    "water bread milk cheese honey salt tea coffee soup cake song story letter book page word picture map clock bell "
    "lamp candle mirror chair bed box bag coat hat shoe ring coin key rope knife cup plate ship boat train wagon "
    "wheel engine machine tool hammer wall roof tower castle king queen actor farmer baker sailor teacher child "
    "friend neighbour stranger brother sister mother father doctor writer singer painter gardener".split()
)
GLUE = tuple(
    "the a an and or but so then when while because although if after before under over between behind beside near "
    "with without from into through across along around every some many few no this that these those his her their "
    "our my its there here now often never always sometimes again soon still already almost only very too".split()
)
LEXICON = NOUNS + ADJECTIVES + VERBS + COLOURS + THINGS + GLUE

_STARTS = "b br c ch d dr f fl g gr h j k l m n p pl pr qu r s sh sk sl st t th tr v w y z".split()
_VOWELS = "a e i o u ai ea ee ia io oa ou".split()
_ENDS = ["", *"b ck d ft g l ll m mp n nd ng nt p r rd rk rn s sh sk ss st t th x".split()]


def made_up_word(rng: random.Random) -> str:
    """A pronounceable word that is in no dictionary, so that quoting is copying and not remembering."""
    num_syllables = rng.randint(1, 3)
    return "".join(rng.choice(_STARTS) + rng.choice(_VOWELS) + rng.choice(_ENDS) for _ in range(num_syllables))
