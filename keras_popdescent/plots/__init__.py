"""Pictures of a search, each as two functions: one that computes, one that draws (extra `plots`).

matplotlib is imported when something is drawn, not before.
"""

from keras_popdescent.plots.comparison import Comparison as Comparison
from keras_popdescent.plots.comparison import comparison_data as comparison_data
from keras_popdescent.plots.comparison import plot_comparison as plot_comparison
from keras_popdescent.plots.hyperparameters import HyperparameterPaths as HyperparameterPaths
from keras_popdescent.plots.hyperparameters import (
    hyperparameter_paths_data as hyperparameter_paths_data,
)
from keras_popdescent.plots.hyperparameters import (
    plot_hyperparameter_path as plot_hyperparameter_path,
)
from keras_popdescent.plots.lineage import Lineage as Lineage
from keras_popdescent.plots.lineage import lineage_data as lineage_data
from keras_popdescent.plots.lineage import plot_lineage as plot_lineage
from keras_popdescent.plots.scores import PopulationScores as PopulationScores
from keras_popdescent.plots.scores import plot_population_scores as plot_population_scores
from keras_popdescent.plots.scores import population_scores_data as population_scores_data
from keras_popdescent.plots.search import plot_search as plot_search
