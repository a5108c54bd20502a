"""What a model saw in a text: the numbers of its forward pass, in numpy, and pages that show them.

A model is known here only as an argument. The engine records and computes with its own bits (`_engine.run_ablated`,
`_engine.logit_lens`, `Sampler.choose`); everything else is arithmetic on these arrays.
"""
