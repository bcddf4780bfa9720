//! Models so small that an image may hold them: real files for real servers, made of numbers that mean nothing.
//!
//! - [`gguf`]: a language model for llama.cpp, which answers in words.
//! - [`whisper`]: a speech recognition model for whisper.cpp, which hears words that nobody said.
//!
//! The same call writes the same bytes on every machine: weights are integers from a fixed seed, scaled by powers of two.

pub mod gguf;
mod half;
mod random;
pub mod whisper;

/// The words that models know.
const WORDS: &str = "a about after again air all also an and another answer any are around as ask at away back be because \
before below between big book both boy but by call came can change city come could country cross day did different do does \
down each earth end even every example eye face far farm father few find first follow food for form found four from get girl \
give go good great group grow had hand hard has have he head hear help her here high him his home hot house how if important \
in is it just keep kind know land large last late learn leave left letter life light like line list little live long look \
made make man many may me mean men might more most mother mountain move much must my name near need never new next night no \
not now number of off often old on once one only open or other our out over own page paper part people picture place plant \
play point put question quick read really right river room run said same saw say school sea second see seem sentence set she \
should show side small so some song soon sound spell start state still stop story study such sun take talk tell than that \
the their them then there these they thing think this those thought three through time to together too took tree turn two \
under until up us use very walk want was watch water way we well went were what when where which while white who why will \
with without woman wood word work world would write year you young your";

fn words() -> impl Iterator<Item = &'static str> {
    WORDS.split_whitespace()
}
