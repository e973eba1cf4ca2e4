"""The objective of the program published with Li et al. 2024, for comparison: ``objective=released``.

Formulas and constants were read from https://github.com/deng-ai-lab/soScope (MIT licence) and are written anew here.
"""
