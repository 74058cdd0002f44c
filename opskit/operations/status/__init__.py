"""Status: whether every source is kept 3-2-1, judged from what is really at each destination.

`places` sees where things are, `states` what each copy holds, `rules` judges; `look` gathers it all for one host.
"""
