"""The live shell: real sites, engines and traffic around the decision core."""
