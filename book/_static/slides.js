// The course's slides: keys and swipes by reveal.js; "s" shows or hides the notes beside each slide; "?view=print" in the address lays them out for paper.
const narrow = window.innerWidth < 600;
Reveal.initialize({ hash: true, respondToHashChanges: true, width: narrow ? 640 : 1100, height: narrow ? 1150 : 700, margin: 0.04, transition: "none", center: false, scrollActivationWidth: null });
Reveal.addKeyBinding({ keyCode: 83, key: "S", description: "Notes" }, () => Reveal.configure({ showNotes: !Reveal.getConfig().showNotes }));
window.MathJax.startup.promise.then(() => Reveal.layout());
