"""How far a candidate's answers are from the reference's: pure functions, numpy and the standard library only."""
