"""Colours of plots: those of Okabe and Ito, distinguishable with any colour vision."""

BLUE, SKY, GREEN = "#0072B2", "#56B4E9", "#009E73"
ORANGE, VERMILION, PURPLE = "#E69F00", "#D55E00", "#CC79A7"
BLACK, OLIVE = "#000000", "#999933"
# From the text beside curves to the grid behind them.
DARK_GREY, GREY, PALE_GREY = "#444444", "#555555", "#dddddd"
