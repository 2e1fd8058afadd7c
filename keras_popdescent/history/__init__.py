"""What happened: records, lineage, schedules and tables, all from the records alone."""

from keras_popdescent.history.history import History as History
from keras_popdescent.history.records import BirthRecord as BirthRecord
from keras_popdescent.history.records import IterationRecord as IterationRecord
from keras_popdescent.history.records import MemberRecord as MemberRecord
from keras_popdescent.history.schedule import Schedule as Schedule
from keras_popdescent.history.schedule import Segment as Segment
