"""Settings that several tests start from."""

from tasks.settings.products import EvaluateParams

SECTION = EvaluateParams(
    seed=3,
    prefixes=(16,),
    rank_prefix=16,
    folds=3,
    block_px=4,
    max_dpixels=300,
    min_dpixels=5,
    bootstrap=50,
    max_tokens=512,
    threads=1,
)
