"""Data: one persistent stream of batches from arrays, tf.data, PyDataset or generators."""

from keras_popdescent.data.arrays import ArrayBatches as ArrayBatches
from keras_popdescent.data.batch import Batch as Batch
from keras_popdescent.data.iterables import IterableBatches as IterableBatches
from keras_popdescent.data.search_data import NO_DATA as NO_DATA
from keras_popdescent.data.search_data import SearchData as SearchData
from keras_popdescent.data.search_data import prepare as prepare
from keras_popdescent.data.search_data import prepare_validation as prepare_validation
