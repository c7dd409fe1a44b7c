-- What every script shares. T is the transaction of this call: the clock, the records in memory, what changes in them.
-- A script reads and asks first; moves change records in memory; T.commit() writes, announces and wakes, once.
-- Functions stand in one table because each local that a function refers to would cost every call.

local T = {
  base = string.sub(K.meta, 1, -6),
  caller = ARGV[2],
  live = LIVE_STATES,
  slotted = SLOTTED_STATES,
  reports = {progress = {code = 101, kind = 'p'}, log = {code = 102, kind = 'l'}, emit = {code = 103, kind = 'e'}},
  jobs = {}, -- id -> record, or false
  packed = {}, -- id -> record as it was written by this call
  freed = {}, -- keys that gave slots back
  -- Set below. With these the table is made for more than 64 fields at once: it would be made anew at the 65th.
  seq = 0, token = 0, event = 0, told_room = 0, in_line = 0, skew = 0, now = 0, wall = 0, micros = 0, back = 0,
  soonest = math.huge, alarm = math.huge, forget = math.huge,
}

-- Forgets what was written; the records in memory stay.
function T.begin()
  T.touched, T.index, T.member, T.others = {}, {}, {}, {} -- ids that change, and where they stood before
  T.notes, T.tellings = {}, {} -- row -> its jobs; process -> its news
  T.payloads, T.results, T.gone, T.watchers, T.names = {}, {}, {}, {}, {} -- what to write beside the records
  T.held_by, T.changed = {}, {} -- key -> slots it holds; what this call added to those
  T.lines_changed, T.least = false, math.huge -- who waits; the least priority that was made available
end

-- The elapsed clock goes on from there; what is due by the wall's may be due at another moment of it now.
function T.jump_to(now)
  T.now = now
  if WRITES then
    T.skew = now - T.wall
    redis.call('HSET', K.meta, 'skew', T.skew)
    T.due_at(now)
  end
end

-- Something is due then, on the elapsed clock.
function T.due_at(at)
  if at < T.soonest then T.soonest = math.ceil(at) end
end

do
  local meta = redis.call('HMGET', K.meta, 'seq', 'token', 'event', 'told_room', 'skew', 'seen', 'alarm', 'keeper', 'paused',
    'left', 'in_line', 'forget', 'configured', 'limited', 'tickets_at')
  local function number(at, default) return tonumber(meta[at] or nil) or default end
  T.seq, T.token, T.event, T.told_room, T.skew = number(1, 0), number(2, 0), number(3, 0), number(4, 0), number(5, 0)
  T.seen, T.alarm, T.soonest = number(6), number(7, math.huge), math.huge
  T.keeper, T.paused, T.new_queue = meta[8] ~= '' and meta[8] or nil, meta[9] == '1', not meta[1]
  T.left, T.in_line, T.forget = number(10), number(11, 0), number(12, math.huge)
  T.configured, T.limited, T.tickets_at = meta[13] == '1', meta[14] or '', number(15)
  T.behind = string.sub(T.limited, -1) == 'm' -- of a limit that changed
  T.begin()
end

-- Two clocks in milliseconds: wall for dates; now, the elapsed one, for leases, delays, deadlines and retention. It is
-- the wall's plus the skew. A caller that brings what it expects the elapsed clock to show can tell a clock that jumped
-- or a server that stood still from time that passed, unless another caller was here meanwhile (seen).
do
  local given, expected, under, back = nil, nil, nil, 0
  if ARGV[1] ~= '' then given, expected, under, back = struct.unpack('>dddd', ARGV[1]) end
  local explicit = given and given == given
  if explicit then
    T.micros = given * 1000
  else
    local time = redis.call('TIME')
    T.micros = time[1] * 1000000 + time[2]
  end
  T.back, T.wall = back, math.floor(T.micros / 1000)
  T.now = T.wall + T.skew
  T.vouched = expected and expected == expected and under == T.skew
  T.trusted = T.vouched or explicit and expected ~= expected
  local known = T.vouched and math.max(expected, T.seen or expected) or not T.trusted and T.seen
  if known and (T.now < known - JUMP or T.vouched and T.now > known + JUMP) then T.jump_to(known) end
end

function T.frame(text) return struct.pack('>Hc0', #text, text) end

-- Runs a command over a long list of arguments, a part at a time: the Lua stack is short.
function T.spread(command, key, list, width)
  local step = 2000 - 2000 % (width or 1)
  for from = 1, #list, step do
    redis.call(command, key, unpack(list, from, math.min(from + step - 1, #list)))
  end
end

function T.load(ids)
  local jobs, wanted = T.jobs, {}
  for _, id in ipairs(ids) do
    if jobs[id] == nil then
      jobs[id] = false
      wanted[#wanted + 1] = id
    end
  end
  if #wanted == 0 then return end
  local found, tail = redis.call('HMGET', K.record, unpack(wanted)), nil
  for at, id in ipairs(wanted) do
    local raw = found[at]
    if raw then
      if string.byte(raw) == 0 then
        tail = tail or string.rep('\0', NOT_RUN_SIZE)
        raw = raw .. tail
      end
      jobs[id] = {struct.unpack(FULL_FORMAT, raw)}
    end
  end
end

-- The ids that stand in every width-th argument, loaded.
function T.items(first, width)
  local ids = {}
  for at = first, #ARGV, width do ids[#ids + 1] = ARGV[at] end
  if #ids > 500 then error('a call takes 500 items at most') end
  T.load(ids)
  return ids
end

function T.pack(job)
  return struct.pack(job[RAN] == 1 and FULL_FORMAT or SHORT_FORMAT, unpack(job))
end

function T.bump(job, field)
  if job[field] < COUNT_LIMIT then job[field] = job[field] + 1 end
end

-- A setting of the queue as text, nil where it was never set.
function T.setting(name)
  if not T.settings then
    local all = T.configured and redis.call('HGETALL', K.settings) or {}
    T.settings = {}
    for at = 1, #all, 2 do T.settings[all[at]] = all[at + 1] end
  end
  return T.settings[name]
end

function T.number_setting(name, default)
  local value = T.setting(name)
  if value == 'inf' then return math.huge end
  return tonumber(value) or default
end

function T.draw_token()
  T.dirty = true
  T.token = math.max(T.token + 1, T.micros)
  return T.token
end

function T.draw_order(front)
  T.seq = T.seq + 1
  return 2 ^ 52 + (front and -T.seq or T.seq)
end

function T.keep_result(id, bytes)
  local results, last = T.results, #T.results
  results[last + 1], results[last + 2] = id, bytes
end

-- The counts that bound attempts start over, at the back of the job's class.
function T.start_anew(job)
  job[FAILURES], job[CANCELS], job[LOST] = 0, 0, 0
  job[ORDER] = T.draw_order()
end

-- A finished job that is no longer kept for reading.
function T.hidden(job)
  return job[STATE] == FINISHED and (job[BARE] == 1 or job[UNTIL] <= T.now)
end
