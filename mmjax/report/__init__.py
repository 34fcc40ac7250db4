"""The page, the plots and the tables of a finished run."""
