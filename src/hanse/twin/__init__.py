"""The simulated world: what drives the same decisions on recorded or synthetic days instead of real sites.

Here: `reproduce`, which reruns published results beside their numbers. Not here, and never imported from here: `live`,
the real sites, engines and traffic.
"""
