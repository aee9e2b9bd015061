"""Fuzzing read_params: mutants of valid files, in processes that may crash, for whoever doubts that it is safe.

instructions takes pickles apart, corpus has valid ones, mutations spoils them, judge runs the reader on one, worker on
many, campaign watches the workers and counts.
"""

from numpy_ref.fuzzing.campaign import Campaign as Campaign, run_campaign as run_campaign
