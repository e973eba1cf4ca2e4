"""Groups of subspots: how many there are, which subspot lies in which, and the columns that say so."""
