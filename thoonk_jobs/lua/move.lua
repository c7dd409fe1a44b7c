-- The one writer of state, and what it takes along: slots, unique names, notices.

-- News for a process: a job it waits for ended or made progress ('j') or was stalled ('s'); it lost a claim ('c').
function T.tell(process, kind, bytes)
  local news = T.tellings[process]
  if not news then
    news = {j = {}, s = {}, c = {}}
    T.tellings[process] = news
    T.tellings[#T.tellings + 1] = process
  end
  news[kind][#news[kind] + 1] = bytes
end

function T.tell_watchers(id, job, kind)
  if job[HOME] == '' and job[WATCHED] == 0 then return end
  local prefix = T.frame(id)
  local bytes = kind == 's' and prefix .. struct.pack('>d', job[UNTIL]) or prefix
  if job[HOME] ~= '' then T.tell(job[HOME], kind, bytes) end
  if job[WATCHED] == 0 then return end
  local found = redis.call('ZRANGEBYLEX', K.watchers, '[' .. prefix, '(' .. prefix .. '\255')
  for _, member in ipairs(found) do T.tell(string.sub(member, #prefix + 1), kind, bytes) end
end

function T.watched(id, job)
  if job[HOME] ~= '' then return true end
  if job[WATCHED] == 0 then return false end
  local prefix = T.frame(id)
  return redis.call('ZLEXCOUNT', K.watchers, '[' .. prefix, '(' .. prefix .. '\255') > 0
end

-- A finished job without its data: the record answers repeated requests for a while.
function T.strip(id, job)
  T.touch(id)
  job[BARE], job[UNHEARD], job[UNTIL] = 1, 0, math.min(T.now, job[UNTIL]) + RECORD_KEPT
  T.gone[id] = true
end

local function retain(id, job)
  local keep = job[KEEP] * 1000
  job[BARE], job[UNHEARD] = 0, T.watched(id, job) and 1 or 0
  job[UNTIL] = T.now + (job[UNHEARD] == 1 and math.max(keep, WAITED) or keep)
  if job[UNTIL] <= T.now then T.strip(id, job) end
end

local function move_name(id, job, from, to)
  local name = job[UNIQUE]
  if T.live[to] and not T.live[from] then T.names[name] = id end
  if T.live[from] and not T.live[to] then T.names[name] = false end
  if to == CLAIMED and job[PASSING] == 1 then
    T.names[name], job[UNIQUE] = false, ''
  end
end

function T.note(row, id, reason)
  local noted = T.notes[row]
  if not noted then
    noted = {ids = {}}
    T.notes[row] = noted
    T.notes[#T.notes + 1] = row
  end
  local ids = noted.ids
  ids[#ids + 1] = T.frame(id)
  if reason then
    noted.reasons = noted.reasons or {}
    noted.reasons[#ids] = struct.pack('>I4c0', #reason, reason)
  end
end

-- The only writer of a job's state.
function T.move(id, row, reason)
  local job, edge = T.jobs[id], EDGES[row]
  local from, to = job[STATE], edge.to
  if not edge[from] then error('the table has no ' .. row .. ' from state ' .. from) end
  T.touch(id)
  if from == CLAIMED then job[ENDED], job[ENDED_BY] = job[TOKEN], edge.code end
  job[STATE] = to
  if not edge.silent then job[VIA] = edge.code end
  if reason then job[REASON] = reason end
  if T.limited ~= '' then T.move_slot(id, job, from, to) end
  if job[UNIQUE] ~= '' then move_name(id, job, from, to) end
  if to == FINISHED then
    job[OUTCOME], job[FINISHED_AT], job[RAN] = edge.outcome, T.wall, 1
    T.tell_watchers(id, job, 'j')
    retain(id, job)
  elseif to == STALLED then
    job[UNTIL] = T.now
    T.tell_watchers(id, job, 's')
  elseif to == ABSENT then
    T.gone[id] = true
  end
  T.note(row, id, reason)
end

-- A claim that ends by another's hand: its holder is told, and its token fits no more.
function T.dispossess(id)
  local job = T.jobs[id]
  if job[STATE] ~= CLAIMED then return end
  T.touch(id)
  T.tell(string.match(job[WORKER], '^[^@]*'), 'c', T.frame(id) .. struct.pack('>d', job[TOKEN]))
  job[TOKEN] = T.draw_token()
end

local function among(rows, code)
  for _, row in ipairs(rows) do
    if EDGES[row].code == code then return code end
  end
end

function T.lapse(id)
  T.dispossess(id)
  T.move(id, 'lapse', 'not done in time')
end

-- A claim whose job is not done in time is over, also where the alarm was not there yet.
local function lapsed(id, job)
  if job[EXPIRES] == '' or not T.trusted or tonumber(job[EXPIRES]) > T.now then return false end
  T.lapse(id)
  return true
end

-- What stands in the way of the first of these rows for a claimant, who brings its token: nothing (nil), the code of
-- the row by which this very request ended the claim before (any of these), or {why, state}.
function T.ask_claimant(id, rows, token)
  local job = T.jobs[id]
  if not job or job[STATE] == ABSENT then return {'absent', ABSENT} end
  token = tonumber(token)
  if job[STATE] == CLAIMED and job[TOKEN] == token and not lapsed(id, job) then return nil end
  local code = job[ENDED] == token and among(rows, job[ENDED_BY])
  return code or {job[TOKEN] == token and 'refused' or 'stale', job[STATE]}
end

-- The same for anybody else, by the job's state and the last row that somebody asked for.
function T.ask(id, rows)
  local job = T.jobs[id]
  if not job or job[STATE] == ABSENT then return {'absent', ABSENT} end
  local forgotten = T.hidden(job)
  if EDGES[rows[1]][job[STATE]] and not forgotten then return nil end
  return among(rows, job[VIA]) or {forgotten and 'absent' or 'refused', forgotten and ABSENT or job[STATE]}
end

-- The same for a request that is known by its name when it comes again, whatever became of the job meanwhile.
function T.ask_once(id, row, request)
  local job = T.jobs[id]
  return job and job[REQUEST] == request and EDGES[row].code or T.ask(id, {row})
end

-- As ask_claimant, for what does not end the claim.
function T.ask_holder(id, token)
  local job = T.jobs[id]
  if not job or job[STATE] == ABSENT then return {'absent', ABSENT} end
  if job[TOKEN] ~= tonumber(token) then return {'stale', job[STATE]} end
  if job[STATE] ~= CLAIMED then return {'refused', job[STATE]} end
end
