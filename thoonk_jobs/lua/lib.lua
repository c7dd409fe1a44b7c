-- What every script shares: the clock, the records in memory, the one writer.
-- A script reads and asks first; moves change records in memory; commit() writes, announces and wakes, once.

local BASE = string.sub(K.meta, 1, -6)
local META = redis.call('HMGET', K.meta, 'seq', 'token', 'event', 'skew', 'paused')
local SEQ, LAST_TOKEN, EVENT = tonumber(META[1]) or 0, tonumber(META[2]) or 0, tonumber(META[3]) or 0

-- Two clocks in milliseconds: WALL for dates, NOW (elapsed) for leases, delays, deadlines and retention.
local MICROS
if ARGV[1] == '' then
  local time = redis.call('TIME')
  MICROS = time[1] * 1000000 + time[2]
else
  MICROS = ARGV[1] * 1000
end
local WALL = math.floor(MICROS / 1000)
local NOW = WALL + (tonumber(META[4]) or 0)
local PAUSED = META[5] == '1'
local CALLER = ARGV[2]
local LIVE, SLOTTED = LIVE_STATES, SLOTTED_STATES
local REPORTS = {progress = {code = 101, kind = 'p'}, log = {code = 102, kind = 'l'}, emit = {code = 103, kind = 'e'}}

local JOBS, BEFORE, TOUCHED = {}, {}, {}
local NOTES, TOLD, CHANGED = {}, {}, {}
local NAMES, PAYLOADS, RESULTS, GONE = {}, {}, {}, {}
local WATCHERS, HELD_BY, FREED = {}, {}, {}

local function frame(text) return struct.pack('>Hc0', #text, text) end

-- Runs a command over a long list of arguments, a part at a time: the Lua stack is short.
local function spread(command, key, list, width)
  local step = 2000 - 2000 % (width or 1)
  for from = 1, #list, step do
    redis.call(command, key, unpack(list, from, math.min(from + step - 1, #list)))
  end
end

local function load(ids)
  local wanted = {}
  for _, id in ipairs(ids) do
    if JOBS[id] == nil then
      JOBS[id] = false
      wanted[#wanted + 1] = id
    end
  end
  if #wanted == 0 then return end
  local found = redis.call('HMGET', K.record, unpack(wanted))
  for at, id in ipairs(wanted) do
    local raw = found[at]
    if raw then
      if string.byte(raw) == 0 then raw = raw .. string.rep('\0', NOT_RUN_SIZE) end
      JOBS[id] = {struct.unpack(FULL_FORMAT, raw)}
    end
  end
end

-- The ids that stand in every width-th argument, loaded.
local function items(first, width)
  local ids = {}
  for at = first, #ARGV, width do ids[#ids + 1] = ARGV[at] end
  load(ids)
  return ids
end

local function pack(job)
  return struct.pack(job[RAN] == 1 and FULL_FORMAT or SHORT_FORMAT, unpack(job))
end

local function bump(job, field)
  job[field] = math.min(job[field] + 1, COUNT_LIMIT)
end

local function draw_order(front)
  SEQ = SEQ + 1
  return 2 ^ 52 + (front and -SEQ or SEQ)
end

local function keep_result(id, bytes)
  RESULTS[#RESULTS + 1] = id
  RESULTS[#RESULTS + 1] = bytes
end

-- The counts that bound attempts start over, at the back of the job's class.
local function start_anew(job)
  job[FAILURES], job[CANCELS], job[LOST] = 0, 0, 0
  job[ORDER] = draw_order()
end

local function setting(name, default)
  local value = redis.call('HGET', K.settings, name)
  if value == 'inf' then return math.huge end
  return tonumber(value) or default
end

-- Bytes that sort as the numbers do.
local function sortable(number)
  local bytes = struct.pack('>d', number)
  if number >= 0 then return string.char(string.byte(bytes) % 128 + 128) .. string.sub(bytes, 2) end
  return (string.gsub(bytes, '.', function(byte) return string.char(255 - string.byte(byte)) end))
end

local function queued(id, job)
  return -job[PRIORITY], struct.pack('>d', job[ORDER]) .. id
end

-- A job's place in the index of its state is a function of its record, so the two cannot disagree.
local PLACES = {
  [SCHEDULED] = function(id, job) return job[DATED] == 1 and K.dated or K.scheduled, job[UNTIL], id end,
  [WAITING] = function(id, job) return job[HELD] == 2 and K.parked or K.waiting, queued(id, job) end,
  [AVAILABLE] = function(id, job) return K.available, queued(id, job) end,
  [CLAIMED] = function(id, job) return K.claimed, job[UNTIL], id end,
  [STALLED] = function(id, job) return K.stalled, job[UNTIL], id end,
  [FINISHED] = function(id, job) return job[BARE] == 1 and K.bare or K.finished, job[UNTIL], id end,
}

local function keyed(id, job)
  local state, prefix = job[STATE], frame(job[KEY])
  if SLOTTED[state] then return prefix .. 'r' .. id end
  if state == SCHEDULED then return prefix .. 's' .. id end
  if state ~= WAITING then return nil end
  if job[HELD] == 1 then return prefix .. 's' .. id end
  return prefix .. 'w' .. sortable(-job[PRIORITY]) .. struct.pack('>d', job[ORDER]) .. id
end

-- All index entries of a job: {key, score, member} each.
local function places(id, job)
  local state = job[STATE]
  if state == ABSENT then return {} end
  local found = {{PLACES[state](id, job)}}
  if job[EXPIRES] ~= '' and LIVE[state] and state ~= STALLED then
    found[2] = {K.expiring, tonumber(job[EXPIRES]), id}
  end
  if job[KEY] ~= '' then
    local member = keyed(id, job)
    if member then found[#found + 1] = {K.keyed, 0, member} end
  end
  return found
end

-- Called before a record is changed in memory: from here on commit() writes it.
local function touch(id)
  if BEFORE[id] then return end
  BEFORE[id] = places(id, JOBS[id])
  TOUCHED[#TOUCHED + 1] = id
end

-- News for a process: a job it waits for ended or made progress ('j') or was stalled ('s'); it lost a claim ('c').
local function tell(process, kind, bytes)
  local news = TOLD[process]
  if not news then
    news = {j = {}, s = {}, c = {}}
    TOLD[process] = news
    TOLD[#TOLD + 1] = process
  end
  news[kind][#news[kind] + 1] = bytes
end

local function tell_watchers(id, job, kind)
  if job[HOME] ~= '' then tell(job[HOME], kind, frame(id)) end
  if job[WATCHED] == 0 then return end
  local prefix = frame(id)
  local found = redis.call('ZRANGEBYLEX', K.watchers, '[' .. prefix, '(' .. prefix .. '\255')
  for _, member in ipairs(found) do tell(string.sub(member, #prefix + 1), kind, prefix) end
end

local function watched(id, job)
  if job[HOME] ~= '' then return true end
  if job[WATCHED] == 0 then return false end
  local prefix = frame(id)
  return redis.call('ZLEXCOUNT', K.watchers, '[' .. prefix, '(' .. prefix .. '\255') > 0
end

local function draw_token()
  LAST_TOKEN = math.max(LAST_TOKEN + 1, MICROS)
  return LAST_TOKEN
end

-- A finished job without its data: the record answers repeated requests for a while.
local function strip(id, job)
  touch(id)
  job[BARE], job[UNTIL] = 1, NOW + RECORD_KEPT
  GONE[id] = true
end

local function retain(id, job)
  local keep = job[KEEP] * 1000
  if watched(id, job) then keep = math.max(keep, WAITED) end
  if keep > 0 then
    job[UNTIL] = NOW + keep
  else
    strip(id, job)
  end
end

local function hidden(job)
  return job[STATE] == FINISHED and (job[BARE] == 1 or job[UNTIL] <= NOW)
end

-- The slots of running jobs that a key holds, '' being the whole queue; counted once, then kept by move().
local function slots(key)
  if not HELD_BY[key] then
    local prefix = frame(key) .. 'r'
    HELD_BY[key] = key == '' and redis.call('ZCARD', K.available) + redis.call('ZCARD', K.claimed)
      or redis.call('ZLEXCOUNT', K.keyed, '[' .. prefix, '(' .. prefix .. '\255')
    HELD_BY[key] = HELD_BY[key] + (CHANGED[key] or 0)
  end
  return HELD_BY[key]
end

local function count_slot(key, change)
  CHANGED[key] = (CHANGED[key] or 0) + change
  if HELD_BY[key] then HELD_BY[key] = HELD_BY[key] + change end
  if change < 0 then FREED[key] = true end
end

local function take_or_give(id, job, from, to)
  local change = (SLOTTED[to] and 1 or 0) - (SLOTTED[from] and 1 or 0)
  if change ~= 0 then
    count_slot('', change)
    if job[KEY] ~= '' then count_slot(job[KEY], change) end
  end
  local name = job[UNIQUE]
  if name == '' then return end
  if LIVE[to] and not LIVE[from] then NAMES[name] = id end
  if not LIVE[to] then NAMES[name] = false end
  if to == CLAIMED and job[PASSING] == 1 then
    NAMES[name], job[UNIQUE] = false, ''
  end
end

local function note(row, id, reason)
  local noted = NOTES[row]
  if not noted then
    noted = {ids = {}, reasons = {}}
    NOTES[row] = noted
    NOTES[#NOTES + 1] = row
  end
  noted.ids[#noted.ids + 1] = frame(id)
  noted.reasons[#noted.ids] = frame(reason or '')
  noted.reasoned = noted.reasoned or reason
end

-- The only writer of a job's state. Slots and unique names are taken and given back here, notices are noted here.
local function move(id, row, reason)
  local job, edge = JOBS[id], EDGES[row]
  local from, to = job[STATE], edge.to
  if not edge.from[from] then error('the table has no ' .. row .. ' from state ' .. from) end
  touch(id)
  job[STATE] = to
  if not edge.silent then job[VIA] = edge.code end
  if reason then job[REASON] = reason end
  take_or_give(id, job, from, to)
  if to == FINISHED then
    job[OUTCOME], job[FINISHED_AT], job[RAN] = edge.outcome, WALL, 1
    tell_watchers(id, job, 'j')
    retain(id, job)
  elseif to == STALLED then
    job[UNTIL] = NOW
    tell_watchers(id, job, 's')
  elseif to == ABSENT then
    GONE[id] = true
  end
  note(row, id, reason)
end

-- A claim that ends by another's hand: its holder is told, and its token fits no more.
local function dispossess(id)
  local job = JOBS[id]
  if job[STATE] ~= CLAIMED then return end
  touch(id)
  tell(string.match(job[WORKER], '^[^@]*'), 'c', frame(id) .. struct.pack('>d', job[TOKEN]))
  job[TOKEN] = draw_token()
end

-- What stands in the way of the first of these rows: nothing (nil), the code of the row that this very request
-- took before (any of these), or {why, state}. A claimant brings its token, anybody else none.
local function ask(id, rows, token)
  local job = JOBS[id]
  if not job or job[STATE] == ABSENT then return {'absent', ABSENT} end
  if token and job[TOKEN] ~= tonumber(token) then return {'stale', job[STATE]} end
  local forgotten = not token and hidden(job)
  if EDGES[rows[1]].from[job[STATE]] and not forgotten then return nil end
  for _, row in ipairs(rows) do
    if EDGES[row].code == job[VIA] then return job[VIA] end
  end
  return forgotten and {'absent', ABSENT} or {'refused', job[STATE]}
end
