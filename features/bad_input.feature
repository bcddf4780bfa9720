Feature: Input that no client of ours sends
  Whatever arrives from outside is answered with an error that says what is wrong, and never with a 500.
