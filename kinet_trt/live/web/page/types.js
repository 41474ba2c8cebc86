/**
 * Types of the JSON that kinet_trt.live.web.serializers sends.
 *
 * Lengths are in µm, positions in a frame in px (pixel centres at integers), times in s since the epoch, shares are
 * fractions. A `Counts` has the number of nuclei by class name.
 *
 * @typedef {Record<string, number>} Counts
 * @typedef {[number, number]} Point
 * @typedef {[number, number]} Interval
 *
 * @typedef {object} Camera
 * @property {"connecting" | "connected" | "stalled" | "reconnecting" | "ended" | "closed"} phase
 * @property {string} sentence the phase in words
 * @property {string} why reason of a failure
 * @property {number | null} retry_in s until the next attempt
 * @property {string} name
 * @property {number} fps
 * @property {number} dropped
 * @property {number} missed
 * @property {number} damaged
 * @property {number | null} width
 * @property {number | null} height
 *
 * @typedef {object} Loop
 * @property {"counting" | "paused" | "failed" | "ended" | "closed"} phase
 * @property {string} why reason of a failure
 * @property {number} fps
 * @property {number | null} p50 median time from capture to display, ms
 * @property {number | null} p99
 * @property {number} counted
 * @property {number} silent s since the last frame
 * @property {boolean} stalled
 *
 * @typedef {object} Scale
 * @property {number} mpp µm/px
 * @property {string} source
 * @property {string} words the source in words
 * @property {boolean} assumed
 * @property {string} note
 *
 * @typedef {object} ModelInfo
 * @property {string} name
 * @property {string} precision
 * @property {string} runtime
 * @property {string[]} classes
 * @property {number} mpp
 * @property {string} sha256
 * @property {boolean} tumor_map
 *
 * @typedef {{name: string, mpp: number}} Preset
 * @typedef {{name: string, from: number, to: number}} Band
 * @typedef {{text: string, reader: string, time: number}} Note
 *
 * @typedef {object} ClassStyle
 * @property {string} name class name as people read it
 * @property {string} colour CSS colour of its marks
 *
 * @typedef {object} Marks
 * @property {number} radius µm
 * @property {Record<string, ClassStyle>} classes
 * @property {string} other CSS colour of further classes
 *
 * @typedef {object} Field
 * @property {number} id
 * @property {number} number
 * @property {number} time
 * @property {number} width
 * @property {number} height
 * @property {number} mpp
 * @property {string} mpp_source
 * @property {boolean} automatic
 * @property {string} threshold
 * @property {Counts} counts
 * @property {number | null} index
 * @property {Interval | null} interval
 * @property {boolean} provisional
 * @property {string | null} unlike
 * @property {number} corrections
 * @property {boolean} undoable
 * @property {boolean} redoable
 * @property {Point[] | "map" | null} region
 * @property {number | null} place
 * @property {number | null} x
 * @property {number | null} y
 * @property {string[]} notes
 * @property {boolean} finished
 *
 * @typedef {object} Nuclei
 * @property {number[]} n number in the field
 * @property {number[]} x
 * @property {number[]} y
 * @property {number[]} c index of the class
 * @property {number[]} m index of the model's class; -1 for a nucleus added by hand
 * @property {boolean[]} removed
 * @property {boolean[]} touched edited by hand
 * @property {boolean[] | null} counted by the session's total
 *
 * @typedef {{density: number[], inside: boolean[]}} FieldStain density of DAB of each nucleus; whether it is in the region
 *
 * @typedef {{field: Field, classes: string[], nuclei: Nuclei}} FieldNuclei
 *
 * @typedef {object} Index
 * @property {number | null} index
 * @property {Interval | null} interval
 * @property {number} tumor
 * @property {number} positive
 * @property {string} range name of the grade range
 * @property {boolean} provisional
 *
 * @typedef {Index & {place: number, x: number, y: number, radius: number, n: number, fields: number[]}} HotSpot
 *
 * @typedef {object} Summary
 * @property {Counts} counts
 * @property {number} tumor
 * @property {Index} average
 * @property {HotSpot | null} hot_spot
 * @property {number} hot_spot_size
 * @property {string[]} notes
 * @property {string} warning
 * @property {string} no_range
 * @property {boolean} settled
 * @property {{cells: number, share: number}[]} goals
 * @property {number | null} mean_of_fields
 * @property {number} area_mm2
 * @property {number} places
 * @property {number} repeats
 * @property {number} corrected
 * @property {string[]} cautions
 *
 * @typedef {object} Agreement
 * @property {number | null} same_class
 * @property {number | null} kappa
 * @property {Interval | null} kappa_interval
 * @property {number | null} difference
 * @property {number} both
 * @property {number} only_first
 * @property {number} only_second
 *
 * @typedef {{id: number, reader: string, done: number, agreement: Agreement | null}} Recount
 *
 * @typedef {object} Session
 * @property {number} id
 * @property {string} title
 * @property {string} reader
 * @property {number} created
 * @property {boolean} resumed
 * @property {number} version
 * @property {Field[]} fields
 * @property {Summary | null} summary
 * @property {Note[]} notes
 * @property {{id: number, number: number}[]} deleted
 * @property {{id: number, reader: string, start: string, done: number, of: number} | null} recount in progress
 * @property {Recount[]} recounts
 *
 * @typedef {object} State
 * @property {"state"} type
 * @property {number} clock server's clock, s
 * @property {{silence: number, request: number, late: number}} limits_ms
 * @property {string} notice
 * @property {Camera} camera
 * @property {Loop} loop
 * @property {number | null} held sequence number of the frame held by a pause
 * @property {Scale} scale
 * @property {ModelInfo} model
 * @property {Marks} marks
 * @property {string} threshold
 * @property {boolean} fused
 * @property {boolean} auto
 * @property {boolean} blank
 * @property {Point[] | null} live_region
 * @property {Preset[]} presets
 * @property {boolean} joining
 * @property {string} trouble
 * @property {Session} session
 * @property {Band[]} bands
 *
 * @typedef {object} FrameHeader
 * @property {number} frame sequence number
 * @property {number} clock server's clock, s
 * @property {number} number
 * @property {number} time
 * @property {number} width
 * @property {number} height
 * @property {number} mpp
 * @property {Counts | null} counts
 * @property {number | null} index
 * @property {Interval | null} interval
 * @property {boolean | null} provisional
 * @property {string | null} unlike
 * @property {boolean} offered
 * @property {string[]} hindrances
 * @property {string} hindered the hindrances in words
 * @property {boolean} rested
 * @property {number | null} sharpness
 * @property {string[]} remarks
 * @property {string} uncounted
 * @property {number[]} x
 * @property {number[]} y
 * @property {number[]} c
 */

export {};
