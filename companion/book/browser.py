"""What the interactive figures bring to a page: one style, and one script each.

The markup alone shows everything (film strips, pairs side by side). The script takes up every widget of its kind that has not been taken up
yet, marks it with the class `smooth-on` and shows one choice at a time. No identifiers, no global names: widgets cannot disturb each other,
nor the same widget shown twice. Text from outside is set as text, never as markup.
"""

STYLE = """
.smooth-widget{background:#fff;color:#1b1b1b;color-scheme:light;border:1px solid #bbb;border-radius:4px;padding:.8em;max-width:660px;
box-sizing:border-box;font:14px/1.4 system-ui,sans-serif}
.smooth-widget *{box-sizing:border-box}
.smooth-widget p,.smooth-widget ul,.smooth-widget figure{margin:.4em 0;padding:0;color:inherit;font-size:inherit;text-align:left}
.smooth-widget li{list-style:none;margin:.2em 0}
.smooth-widget [hidden],.smooth-widget:not(.smooth-on) .smooth-live{display:none!important}
.smooth-widget .smooth-images{display:flex;flex-wrap:wrap;gap:.4em 1em}
.smooth-widget figcaption{font-weight:600;color:inherit;margin:0;padding:0;text-align:left!important}
.smooth-widget .smooth-view{overflow:auto;max-width:100%}
.smooth-widget img{display:block!important;max-width:none!important;height:auto!important;margin:0!important;padding:0!important;
border:0!important;border-radius:0!important;filter:none!important;background:#fff!important;width:calc(var(--wide)*var(--frames,1))}
.smooth-widget.smooth-pixels img{image-rendering:pixelated}
.smooth-widget.smooth-on .smooth-view{overflow:hidden;width:var(--wide)}
.smooth-widget label{display:flex;flex-wrap:wrap;gap:.2em 1em;align-items:center;margin:.3em 0;color:inherit}
.smooth-widget select{flex:1 1 12em;min-width:0;max-width:100%;font:inherit;color:#1b1b1b;background:#fff;padding:.2em;
border:1px solid #767676}
.smooth-widget input[type=range]{flex:1 1 12em;min-width:0;margin:.4em 0;accent-color:#0072b2}
.smooth-widget select:focus-visible,.smooth-widget input:focus-visible{outline:3px solid #0072b2;outline-offset:2px}
.smooth-widget .smooth-play{flex:0 0 auto;font:inherit;color:#1b1b1b;background:#fff;border:1px solid #767676;border-radius:4px;
padding:.2em .8em;margin:.2em .6em .2em 0;cursor:pointer}
.smooth-widget .smooth-play:focus-visible{outline:3px solid #0072b2;outline-offset:2px}
.smooth-widget .smooth-at{min-height:1.4em;font-variant-numeric:tabular-nums}
.smooth-widget svg{display:block;width:100%;max-width:528px;height:auto;font:12px system-ui,sans-serif;fill:#1b1b1b}
.smooth-widget svg.smooth-sample{display:inline-block;width:36px;height:16px;vertical-align:middle;margin-right:.4em}
.smooth-widget .smooth-now{stroke:#1b1b1b;stroke-width:2.5}
.smooth-widget:not(.smooth-on) .smooth-cursor{display:none}
.smooth-widget .smooth-note{color:#595959;font-size:12px}
.smooth-on .smooth-pair{position:relative;width:var(--wide);max-width:100%;overflow:hidden;touch-action:pan-y;cursor:ew-resize}
.smooth-on .smooth-pair figure{margin:0}
.smooth-on .smooth-pair figcaption{display:none}
.smooth-on .smooth-pair figure+figure{position:absolute;inset:0;clip-path:inset(0 0 0 var(--at))}
.smooth-on .smooth-pair::after{content:"";position:absolute;top:0;bottom:0;left:calc(var(--at) - 1px);width:2px;background:#fff;
outline:1px solid #1b1b1b}
.smooth-compare label.smooth-slide{max-width:var(--wide)}
@media(max-width:600px){.smooth-widget img{width:calc(var(--narrow)*var(--frames,1))}
.smooth-widget.smooth-on .smooth-view,.smooth-on .smooth-pair{width:var(--narrow)}
.smooth-compare label.smooth-slide{max-width:var(--narrow)}}
"""

# What both scripts begin with: `all` finds inside a widget, `choose` shows one section at a time.
_START = """(function(){document.querySelectorAll('.%s:not(.smooth-on)').forEach(function(root){
function all(found,from){return Array.from((from||root).querySelectorAll(found))}
var range=all('input')[0],select=all('select')[0],sections=all('section'),at=all('.smooth-at')[0];
function choose(){sections.forEach(function(s,i){s.hidden=!!select&&i!==select.selectedIndex})}
function say(text){range.setAttribute('aria-valuetext',text);at.textContent=text}
"""
_END = """range.addEventListener('input',show);
if(select)select.addEventListener('change',function(){choose();show()});
root.classList.add('smooth-on');choose();show()})})();"""

# It opens at the frame before the largest step of all prompts, chosen by rank and said so: the next move shows the jump. Where the reader
# prefers reduced motion, the play button moves by one frame.
WALK_SCRIPT = (
    _START % "smooth-walk"
    + """function show(){
var k=+range.value,last=+range.max,frame='frame '+(k+1)+' of '+(last+1);
say(frame+', eta = '+parseFloat((k/last).toFixed(3)));
sections.forEach(function(s){
all('.smooth-view',s).forEach(function(view){var image=all('img',view)[0];view.scrollLeft=0;
image.style.transform='translateX('+-100*k/(last+1)+'%)';image.alt=image.dataset.alt+', '+frame});
all('[data-frame]',s).forEach(function(p){p.classList.toggle('smooth-now',+p.dataset.frame===k)});
all('.smooth-cursor',s).forEach(function(c){c.setAttribute('transform','translate('+c.dataset.step*k+' 0)')});
all('[data-steps]',s).forEach(function(t){
t.textContent=k?'step to this frame '+t.dataset.steps.split(' ')[k-1]:'first frame, no step yet'})})}
function jump(s){var best={d:0,k:0};all('[data-steps]',s).forEach(function(t){t.dataset.steps.split(' ').forEach(function(d,k){
if(+d>best.d)best={d:+d,k:k}})});return best}
function shown(){return sections[select?select.selectedIndex:0]}
function button(text,action){var b=document.createElement('button');b.type='button';b.className='smooth-play smooth-live';
b.textContent=text;b.addEventListener('click',action);range.closest('label').insertAdjacentElement('beforebegin',b);return b}
var timer=0,still=window.matchMedia('(prefers-reduced-motion: reduce)');
function stop(){clearInterval(timer);timer=0;play.textContent=still.matches?'Next frame':'Play'}
function next(){var k=+range.value;range.value=k<+range.max?k+1:0;show();if(+range.value===+range.max&&timer)stop()}
var play=button('Play',function(){if(still.matches){next();return}
if(timer){stop();return}if(+range.value===+range.max)range.value=0;play.textContent='Pause';timer=setInterval(next,500)});
button('Largest jump',function(){stop();range.value=jump(shown()).k;show()});
stop();range.addEventListener('pointerdown',stop);range.addEventListener('keydown',stop);still.addEventListener('change',stop);
if(select){var best=sections.map(jump);
select.selectedIndex=best.reduce(function(i,b,j){return b.d>best[i].d?j:i},0)}
range.value=jump(shown()).k;
all('.smooth-note')[0].textContent+=' Opens before the largest step of all that can be chosen.';
"""
    + _END
)

COMPARE_SCRIPT = (
    _START % "smooth-compare"
    + """var pairs=all('.smooth-pair');
function show(){
var v=+range.value,names=range.dataset;
say(names.left+' '+v+' %, '+names.right+' '+(100-v)+' %');
pairs.forEach(function(p){p.style.setProperty('--at',v+'%')})}
pairs.forEach(function(p){function drag(e){if(!(e.buttons&1))return;var b=p.getBoundingClientRect();
range.value=Math.round(100*(e.clientX-b.left)/b.width);show()}
p.addEventListener('pointerdown',drag);p.addEventListener('pointermove',drag);
p.addEventListener('dragstart',function(e){e.preventDefault()})});
"""
    + _END
)
