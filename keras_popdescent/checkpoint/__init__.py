"""Snapshots of a search on disk: atomic, bounded, without pickle, one process at a time."""

from keras_popdescent.checkpoint.archive import SCHEMA as SCHEMA
from keras_popdescent.checkpoint.archive import pack as pack
from keras_popdescent.checkpoint.archive import read as read
from keras_popdescent.checkpoint.archive import takes as takes
from keras_popdescent.checkpoint.differences import differences as differences
from keras_popdescent.checkpoint.differences import listing as listing
from keras_popdescent.checkpoint.folder import CheckpointWarning as CheckpointWarning
from keras_popdescent.checkpoint.folder import Folder as Folder
from keras_popdescent.checkpoint.lock import FolderLock as FolderLock
